"""One driver for all kinds of servers: commands and Workers, which run here, and those that somebody else runs."""

import asyncio

from smcp.runtime import driver


class Either(driver.Driver):
    """Chooses by what the deployment says."""

    def __init__(self, hosted: driver.Driver, workers: driver.Driver, remote: driver.Driver) -> None:
        self._hosted = hosted
        self._workers = workers
        self._remote = remote

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        return await self._chosen(spec).start(spec, modern=modern, lines=lines)

    def _chosen(self, spec: driver.Spec) -> driver.Driver:
        if spec.remote is not None:
            return self._remote
        return self._hosted if spec.worker is None else self._workers

    async def close(self) -> None:
        await asyncio.gather(self._hosted.close(), self._workers.close(), self._remote.close())
