"""The deployed servers that are run with and without walls: where their artefact lies, and how each is started."""

import glob
import os
import pathlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from bench import guest
from smcp.app import machine
from smcp.kernel import errors
from smcp.sandbox import cells, node
from support import platform as running

SOURCES: Final = {
    "time": ("Python: mcp-server-time", "pypi:mcp-server-time"),
    "everything": ("Node.js: server-everything", "npm:@modelcontextprotocol/server-everything"),
}


class Deployed(NamedTuple):
    """A deployment, as it lies on this machine."""

    label: str
    artefact: str
    argv: tuple[str, ...]
    """As seen in a cell."""
    runs: cells.Runs

    def bare(self) -> list[str]:
        """The same command without walls: the paths are this machine's, the interpreter is named."""
        words = [self._outside(word) for word in self.argv]
        program = [self._outside(self.runs.executable)]
        if not isinstance(self.runs, node.Node):
            # Packages of this machine stay out, as they do in a cell; some servers search all that they find.
            program.append("-S")
        return [*program, *(words[1:] if words[0] == program[0] else words)]

    def bare_env(self) -> Mapping[str, str]:
        """The same environment, and the way to the modules, which a virtual environment knows only at its place."""
        env = {name: self._outside(value) for name, value in cells.base_env(self.runs)}
        if not isinstance(self.runs, node.Node):
            env["PYTHONPATH"] = os.pathsep.join(glob.glob(f"{self.artefact}/venv/lib/python3*/site-packages"))
        return env

    def _outside(self, path: str) -> str:
        for target, source in ((cells.APP, self.artefact), *((one.target, one.source) for one in self.runs.binds)):
            if path == target or path.startswith(f"{target}/"):
                return source + path[len(target) :]
        return path


def deploy(platform: running.Platform, name: str, key: guest.Key) -> None:
    """Deploy one of `SOURCES`. Raises AssertionError where it can't be fetched."""
    platform.deploy(guest.TENANT, SOURCES[name][1], name, key.text)


def find(platform: running.Platform, name: str, key: guest.Key, found: machine.Machine) -> Deployed:
    """The live deployment of `name`."""
    listed = platform.api("GET", f"/tenants/{guest.TENANT}/servers/{name}/deployments", key=key.text)["items"]
    live = next(one for one in listed if one["live"])
    digest = str(live["digest"]).rpartition(":")[2]
    label, source = SOURCES.get(name, (name, "pypi:"))
    runs = found.node if source.startswith("npm:") else found.python
    if runs is None:
        raise errors.SandboxMissing("There is no Node.js here.")
    artefact = pathlib.Path(os.path.realpath(platform.data)) / machine.ARTEFACTS / guest.TENANT / digest
    return Deployed(label, str(artefact), tuple(live["argv"]), runs)
