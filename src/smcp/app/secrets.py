"""What a copy that starts gets of its server's secrets: the room that keeps them, joined to the one that starts."""

from collections.abc import Mapping, Sequence

from smcp.deploy import secrets
from smcp.deploy.sources import remote
from smcp.kernel import errors
from smcp.runtime import driver, hiding
from smcp.sandbox.egress import substituted


class Giver:
    """Finds the secrets for one copy, when it starts."""

    def __init__(self, kept: secrets.Secrets) -> None:
        self._kept = kept

    async def __call__(self, spec: driver.Spec) -> tuple[hiding.Given, ...]:
        """Every secret of the server; of a remote one those that its headers name, and no other.

        What its manifest names must be there, and comes as the manifest says.

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
        if spec.remote is not None:
            return _sent(spec, spec.remote.headers, {one.name: one.value for one in found})
        if spec.worker is None:
            _refuse_substituted(spec, wanted)
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


def _refuse_substituted(spec: driver.Spec, wanted: Mapping[str, str]) -> None:
    """Only a Worker's requests pass through the platform before TLS: any other server would get the value itself."""
    for name, kind in wanted.items():
        if substituted.hosts(kind) is not None:
            raise errors.SecretMissing(
                f"The manifest of {spec.tenant}/{spec.server} wants the secret {name} substituted, which is only for"
                " Workers. Let it want a variable or a file."
            )


def _sent(
    spec: driver.Spec, headers: Sequence[tuple[str, str]], values: Mapping[str, bytes]
) -> tuple[hiding.Given, ...]:
    """The values of `headers`, as they are sent: the driver adds nothing but `Bearer `."""
    for header, name in headers:
        try:
            remote.value(header, values[name])
        except ValueError as error:
            raise errors.SecretMissing(
                f"The secret {name} of {spec.tenant}/{spec.server} can't be the value of the header {header}: {error}."
                f" 'smcp secret set {spec.tenant}/{spec.server} {name}' sets it anew."
            ) from None
    used = dict.fromkeys(name for _, name in headers)
    return tuple(hiding.Given(name=name, value=values[name].strip(b" \t\r\n")) for name in used)
