"""The role table: what each role may do, where. `python -m support.roles`, in tests/, writes it."""

import pathlib
from typing import Final

from smcp.access import policy
from smcp.kernel import ids

GOLDEN: Final = pathlib.Path(__file__).parents[1] / "golden" / "roles.txt"
_SIGNS: Final = {policy.Decision.ALLOW: "yes", policy.Decision.DENY: "403", policy.Decision.CONCEAL: "404"}


def table() -> str:
    """One line an action; for each role: in its own tenant / in another's / in the platform."""
    own, other = ids.tenant("acme"), ids.tenant("umbra")
    lines = [
        "# own tenant / another tenant / the platform's own. yes: allowed, 403: denied, 404: concealed.",
        "# The operator belongs to the platform: its own tenant is the platform.",
        "# Written by: cd tests && ../.venv/bin/python -m support.roles",
        "action".ljust(20) + "".join(role.value.rjust(18) for role in policy.Role),
    ]
    for action in policy.Action:
        cells: list[str] = []
        for role in policy.Role:
            home = ids.PLATFORM if role is policy.Role.OPERATOR else own
            caller = policy.Principal(home, "key-1", "api_key", (role,))
            decisions = [
                _SIGNS[policy.decide(caller, action, policy.Resource(tenant, "any"))]
                for tenant in (home, other, ids.PLATFORM)
            ]
            cells.append("/".join(decisions).rjust(18))
        lines.append(action.value.ljust(20) + "".join(cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(table(), encoding="utf-8")
