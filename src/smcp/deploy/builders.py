"""The builders of every kind of source, and which one makes what."""

import pathlib
from typing import TypeVar, assert_never

from smcp.deploy import build, manifest
from smcp.deploy.sources import any as sources
from smcp.deploy.sources import npm, pypi
from smcp.kernel import errors

_Builder = TypeVar("_Builder")


class Builders:
    """Dispatches by the source's type; a kind without a builder is refused."""

    def __init__(
        self,
        *,
        pypi: build.Builder[pypi.Pypi],
        npm: build.Builder[npm.Npm] | None = None,
        upload: build.Builder[sources.Upload] | None = None,
    ) -> None:
        self._pypi = pypi
        self._npm = npm
        self._upload = upload

    async def build(
        self, source: sources.Source, asked: manifest.Manifest, directory: pathlib.Path, tell: build.Tell
    ) -> build.Built:
        """As `build.Builder`."""
        match source:
            case pypi.Pypi():
                return await self._pypi.build(source, asked, directory, tell)
            case npm.Npm():
                return await _have(self._npm, "npm packages").build(source, asked, directory, tell)
            case sources.Upload():
                return await _have(self._upload, "uploads").build(source, asked, directory, tell)
            case _:
                assert_never(source)


def _have(builder: _Builder | None, what: str) -> _Builder:
    if builder is None:
        raise errors.DeployFailed(f"This platform can't build {what}.")
    return builder
