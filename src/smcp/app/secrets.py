"""What a copy that starts gets of its server's secrets: the room that keeps them, joined to the one that starts."""

from smcp.deploy import secrets
from smcp.kernel import errors
from smcp.runtime import driver, hiding


class Giver:
    """Finds the secrets for one copy, when it starts."""

    def __init__(self, kept: secrets.Secrets) -> None:
        self._kept = kept

    async def __call__(self, spec: driver.Spec) -> tuple[hiding.Given, ...]:
        """Every secret of the server. What its manifest names must be there, and comes as the manifest says.

        Raises `errors.SecretMissing`, which names what is not set, `errors.Unavailable`, `errors.TamperedData`.
        """
        found = await self._kept.values(spec.tenant, spec.server)
        wanted = dict(spec.secrets)
        missing = sorted(wanted.keys() - {one.name for one in found})
        if missing:
            raise errors.SecretMissing(
                f"The server {spec.tenant}/{spec.server} needs secrets that are not set: {', '.join(missing)}. "
                f"'smcp secret set {spec.tenant}/{spec.server} {missing[0]}' sets one."
            )
        given: list[hiding.Given] = []
        for one in found:
            kind = wanted.get(one.name, one.kind)
            if kind == "env" and not secrets.is_text(one.value):
                raise errors.SecretMissing(
                    f"The manifest wants the secret {one.name} as a variable, and its value is not text without NUL. "
                    "Set it again, or let the manifest want a file."
                )
            given.append(hiding.Given(name=one.name, value=one.value, file=kind == "file"))
        return tuple(given)
