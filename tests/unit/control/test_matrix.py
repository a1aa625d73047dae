"""Endpoint × role × tenant, asked of the real application and compared with the golden file.

`python -m unit.control.test_matrix` (in tests/) prints the table. A changed line is a changed promise.
"""

import asyncio
import pathlib
import tempfile
from typing import Final

import pytest

from smcp.control import endpoint
from smcp.kernel import ids
from unit.control import paths
from unit.control import world as worlds

GOLDEN: Final = pathlib.Path(__file__).parents[2] / "golden" / "access-matrix.txt"
_ROLES: Final = ("admin", "mcp_user", "read_only")
# Title, whose key, on which tenant.
COLUMNS: Final[tuple[tuple[str, str | None, str], ...]] = (
    ("nobody", None, worlds.OWN),
    *((f"own {role}", f"{worlds.OWN}/{role}", worlds.OWN) for role in _ROLES),
    *((f"other {role}", f"{worlds.OTHER}/{role}", worlds.OWN) for role in _ROLES),
    ("operator", "operator", worlds.OWN),
    ("nobody on platform", None, ids.PLATFORM),
    *((f"{role} on platform", f"{worlds.OWN}/{role}", ids.PLATFORM) for role in _ROLES),
    ("operator on platform", "operator", ids.PLATFORM),
)


async def _ask(world: worlds.World, one: endpoint.Endpoint, who: str | None, tenant: str) -> int:
    key = await world.fresh_key(ids.TenantId(tenant))
    parts = {"tenant": tenant, "server": "time", "key": key, "operation": world.operation, "secret": worlds.SECRET}
    parts["client"] = await world.fresh_client(ids.TenantId(tenant))
    if "user" in one.parameters or "invitation" in one.parameters:
        parts |= await world.fresh_people(ids.TenantId(tenant))
    answer = await world.send(one.method, paths.filled(one, parts), who, **paths.options(one))
    if answer.is_success and one.method != "GET":
        await world.restore()
    return answer.status_code


async def table() -> str:
    """The whole matrix as text."""
    lines = [
        "# What each endpoint answers: rows are endpoints with their action, columns are callers. `own`: the tenant in",
        "# the path is the caller's; `other`: another tenant's; `platform`: the path names the platform tenant.",
        "# 404 conceals, 403 refuses, 401 asks for a credential. Made by tests/unit/control/test_matrix.py.",
    ]
    with tempfile.TemporaryDirectory() as directory:
        async with worlds.opened(pathlib.Path(directory)) as world:
            for one in paths.ALL:
                action = one.access if isinstance(one.access, str) else type(one.access).__name__
                lines += ["", f"{paths.name(one)}  [{action}]"]
                for title, who, tenant in COLUMNS:
                    if "tenant" not in one.parameters and ("other" in title or "platform" in title):
                        continue
                    lines.append(f"  {title:<22}{await _ask(world, one, who, tenant)}")
    return "\n".join(lines) + "\n"


@pytest.mark.requirement("control:access:matrix")
async def test_every_endpoint_answers_every_role_as_the_golden_table_says() -> None:
    assert await table() == GOLDEN.read_text("utf-8")


@pytest.mark.requirement("control:access:platform-for-operators")
async def test_no_tenant_reaches_the_platform_tenant() -> None:
    for block in GOLDEN.read_text("utf-8").split("\n\n")[1:]:
        for line in block.splitlines()[1:]:
            title, status = line.rsplit(maxsplit=1)
            if title.strip() in [f"{role} on platform" for role in _ROLES] + [f"other {role}" for role in _ROLES]:
                assert status == "404", block


if __name__ == "__main__":
    print(asyncio.run(table()), end="")
