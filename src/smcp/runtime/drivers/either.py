"""One driver for both kinds of servers: those that run here, and those that somebody else runs."""

import asyncio

from smcp.runtime import driver


class Either(driver.Driver):
    """Chooses by what the deployment says."""

    def __init__(self, hosted: driver.Driver, remote: driver.Driver) -> None:
        self._hosted = hosted
        self._remote = remote

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        chosen = self._hosted if spec.remote is None else self._remote
        return await chosen.start(spec, modern=modern, lines=lines)

    async def close(self) -> None:
        await asyncio.gather(self._hosted.close(), self._remote.close())
