"""Which Python a sandboxed server gets, and how it comes in.

The distribution's Python lies below /usr, which every sandbox sees. Any other (pyenv, uv, a hand-built one) is mounted
read-only at /opt/python, its own site-packages hidden: packages of the host neither leak in nor shadow the server's.
An interpreter below a home of mode 0700 works, because bwrap opens its mounts as the platform's user.

A deployment records `label` and the path inside: a virtual environment is bound to both, so an instance on
another Python is refused instead of failing in a riddle.
"""

import os
import sys
import sysconfig
from typing import Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox import walls

MOUNT: Final = "/opt/python"


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """A Python as a sandbox sees it."""

    label: str
    """Implementation and version, and the prefix inside: `cpython-3.11.7 /opt/python`. Recorded in deployments."""
    executable: str
    """Path inside the sandbox."""
    home: str
    """The prefix on this host to mount at /opt/python; empty for the distribution's Python."""
    hidden: tuple[str, ...]
    """Directories inside that appear empty."""
    env: tuple[tuple[str, str], ...]
    """What the interpreter needs to find its own shared library."""

    @property
    def binds(self) -> tuple[walls.Bind, ...]:
        """What has to be mounted for it."""
        return (walls.Bind(self.home, MOUNT),) if self.home else ()


def current() -> Interpreter:
    """The Python that runs the platform. Raises `errors.SandboxMissing` when it can't be brought into a sandbox."""
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return at(os.path.realpath(sys.base_prefix), sys.version_info[:3], shared=shared)


def at(prefix: str, version: tuple[int, int, int], *, shared: bool) -> Interpreter:
    """The CPython of `version` installed at `prefix`; `shared` says that it needs its own libpython."""
    short = f"{version[0]}.{version[1]}"
    program = f"bin/python{short}"
    if not os.access(f"{prefix}/{program}", os.X_OK):
        raise errors.SandboxMissing(
            f"There is no Python {short} at {prefix}/{program}.",
            detail="the platform's own interpreter is what hosted Python servers run on",
        )
    system = prefix == "/usr" or prefix.startswith("/usr/")
    inside = prefix if system else MOUNT
    packages = f"lib/python{short}/site-packages"
    return Interpreter(
        label=f"{sys.implementation.name}-{'.'.join(str(part) for part in version)} {inside}",
        executable=f"{inside}/{program}",
        home="" if system else prefix,
        hidden=(f"{inside}/{packages}",) if not system and os.path.isdir(f"{prefix}/{packages}") else (),
        env=(("LD_LIBRARY_PATH", f"{inside}/lib"),) if shared and not system else (),
    )


def serves(interpreter: Interpreter, recorded: str) -> bool:
    """Whether `interpreter` can run what was built with `recorded` (a label): same place, same minor version."""
    return _binary(interpreter.label) == _binary(recorded)


def _binary(label: str) -> tuple[str, str]:
    name, _, place = label.partition(" ")
    return name.rpartition(".")[0], place
