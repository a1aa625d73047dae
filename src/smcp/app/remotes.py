"""Composition of remote servers: whether an address may be dialled, and what a deployment says to it."""

import asyncio
import ipaddress
from collections.abc import Sequence

from smcp.deploy import versions
from smcp.deploy.sources import remote
from smcp.kernel import errors, ids
from smcp.runtime import driver
from smcp.sandbox import egress

_HOW = (
    "An operator can open a network with the setting egress.allowed_networks (docs/how-to/deploy-a-remote-server.md)."
)


class Reach:
    """Looks at an address before a deployment asks it anything.

    For a clear word only: it is looked at again, and by the same guard, whenever it is dialled. What the name system
    says between the two may differ, and what is dialled is what was checked last. No answer repeats an address that
    was found: what a name leads to inside of the operator's networks is none of the tenant's business.
    """

    def __init__(self, reach: egress.Egress) -> None:
        self._reach = reach

    async def __call__(self, place: remote.Remote) -> None:
        """Raises `errors.DeployFailed`."""
        found = await self._addresses(place)
        guard = self._reach.guard
        # As where it is dialled: one wrong address condemns the name, because an honest one does not mix them.
        why = ", ".join(sorted({guard.refusal(one) for one in found} - {""})) if found else "no address"
        if why:
            raise errors.DeployFailed(f"{place.url} is not reached from here: {place.host} is {why}. {_HOW}")
        if place.plain and not all(map(guard.opened, found)):
            raise errors.DeployFailed(
                f"{place.url} has no TLS: over the internet its credentials could be read on the way. Write https://."
                f" {_HOW}"
            )

    async def _addresses(self, place: remote.Remote) -> Sequence[str]:
        try:
            return [str(ipaddress.ip_address(place.host))]
        except ValueError:
            pinned = self._reach.pins.get(place.host)
        if pinned is not None:
            return pinned
        try:
            async with asyncio.timeout(self._reach.connect_s):
                return await self._reach.resolve(place.host, 443)
        except (OSError, UnicodeError) as error:  # a time-out is an OSError, too
            raise errors.DeployFailed(f"The name {place.host} was not found. Is the address right?") from error


def spec(tenant: ids.TenantId, server: ids.ServerName, deployment: versions.Deployment) -> driver.Spec:
    """How a deployment of a remote server is reached. Raises `errors.TamperedData` for a record that is none."""
    said = deployment.manifest.remote
    if said is None:
        raise errors.TamperedData(detail="a remote server's deployment has no address")
    return driver.Spec(
        tenant=tenant,
        server=server,
        deployment=deployment.id,
        artefact="",
        argv=(),
        secrets=tuple(dict.fromkeys((secret, "env") for secret in said.headers.values())),
        remote=driver.Remote(url=said.url, headers=tuple(said.headers.items()), wire=deployment.wire or said.wire),
    )
