"""The builders of every kind of source, and which one makes what."""

import pathlib
from typing import TypeVar, assert_never

from smcp.deploy import build, manifest, shelves, upload_builder
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
        upload: upload_builder.UploadBuilder | None = None,
        gvisor: bool = False,
    ) -> None:
        """`gvisor`: whether this machine has that tier."""
        self._pypi = pypi
        self._npm = npm
        self._upload = upload
        self._gvisor = gvisor

    # Before `build`, whose name hides the module's in what follows it.
    async def _built(
        self,
        source: sources.Package,
        asked: manifest.Manifest,
        directory: pathlib.Path,
        tell: build.Tell,
        shelf: shelves.Shelf,
    ) -> build.Built:
        match source:
            case pypi.Pypi():
                return await self._pypi.build(source, asked, directory, tell)
            case npm.Npm():
                return await _have(self._npm, "npm packages").build(source, asked, directory, tell)
            case sources.Upload():
                return await _have(self._upload, "uploads").build(source, asked, directory, tell, shelf)
            case _:
                assert_never(source)

    async def build(
        self,
        source: sources.Package,
        asked: manifest.Manifest,
        directory: pathlib.Path,
        tell: build.Tell,
        shelf: shelves.Shelf,
    ) -> build.Built:
        """As `build.Builder`; `shelf` is the tenant's.

        Raises `errors.DeployFailed` for a tier that is not here too, before anything is built if the order asks for it,
        else (a folder's own manifest) afterwards.
        """
        self._check(asked)
        built = await self._built(source, asked, directory, tell, shelf)
        self._check(built.asked or asked)
        return built

    def _check(self, asked: manifest.Manifest) -> None:
        if asked.runtime == "gvisor" and not self._gvisor:
            raise errors.DeployFailed(
                'This platform has no gVisor, which the manifest asks for with runtime = "gvisor". Leave that out, or'
                " ask the operator: 'smcp doctor' says what is missing and what brings it."
            )


def _have(builder: _Builder | None, what: str) -> _Builder:
    if builder is None:
        raise errors.DeployFailed(f"This platform can't build {what}.")
    return builder
