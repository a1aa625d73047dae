"""What this machine has, found once at the start by whoever may look, and handed to the platform as data.

Started as root, the foreground looks (it can read root's pip configuration and reach every directory), and the
platform, which runs without privilege, gets the result. The launcher gets its part, the house, from the foreground
too: the platform can't widen it.
"""

import contextlib
import hashlib
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

import smcp
from smcp.deploy import guard, index, npm_config, npm_modules, pypi_builder
from smcp.deploy.workers import bundler
from smcp.kernel import errors, settings
from smcp.sandbox import egress, interpreter, node, probe, tools, walls
from smcp.sandbox.launcher import messages

WORK: Final = "work"
ARTEFACTS: Final = "cache/artefacts"
PIP_CACHE: Final = "cache/pip"
VOLUMES: Final = "run/volumes"
DOORS: Final = "run/doors"
_ID: Final = 10
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    layers: tuple[probe.Layer, ...]
    """Every layer of the walls: there, or why not."""
    host: walls.Host
    python: interpreter.Interpreter
    node: node.Node | None
    pinned: tools.Tools
    """The pinned programs that are here; one that is missing takes only Workers away."""
    index: index.Index
    registry: npm_config.Registry
    uid: int
    """The platform's uid."""

    @classmethod
    def find(
        cls,
        config: settings.Settings,
        environ: Mapping[str, str],
        pinned: tools.Tools | None = None,
        *,
        apart: bool = False,
    ) -> "Machine":
        """Look at this machine (blocking, about 300 ms). `apart`: the platform will be a process of its own, with a uid
        of its own where this machine has one for it. `pinned`: what of the pinned programs was found already.

        Raises `errors.SandboxMissing`, `errors.BadSettings`.
        """
        layers = probe.layers(config.sandbox)
        host = probe.host(config.sandbox, layers)
        return cls(
            layers=tuple(layers),
            host=host,
            python=interpreter.current(),
            node=node.current(environ),
            pinned=tools.current(environ) if pinned is None else pinned,
            index=index.read(environ),
            registry=npm_config.read(environ),
            uid=config.sandbox.uid_first if apart and walls.UID in host.layers else os.geteuid(),
        )

    def needed(self, config: settings.Settings) -> tuple[str, ...]:
        """What the platform's process must be able to reach: its code, its data."""
        own = (sys.base_prefix, sys.prefix, os.path.dirname(smcp.__file__), sys.executable)
        data = [str(config.platform.directory())]
        if config.platform.root_key_file:
            data.append(os.path.dirname(config.platform.root_key()))
        # Never a path below the data directory, which is the platform's to change: a link there would name what is to
        # be opened to it.
        data = [path for path in data if path == data[0] or not f"{path}/".startswith(f"{data[0]}/")]
        return tuple(path for path in (*own, *data) if os.path.exists(path))

    @property
    def drops(self) -> bool:
        """Whether cells get uids of their own."""
        return walls.UID in self.host.layers

    def _readable(self, directory: str) -> str:
        """`directory`, which cells of another uid have to read. Raises `errors.BadSettings` with the command to run."""
        if self.drops and os.path.isdir(directory) and os.stat(directory).st_mode & 0o005 != 0o005:
            raise errors.BadSettings(
                f"deploy.wheel_dirs: {directory} is closed to the uid that fetches packages. Run:"
                f" chmod o+rx {directory}"
            )
        return directory

    def house(self, config: settings.Settings, more: Sequence[str] = ()) -> messages.House:
        """The launcher's part; makes the directories that it names. `more` are further sources of packages."""
        data = pathlib.Path(os.path.realpath(config.platform.directory()))
        for name in (WORK, ARTEFACTS, PIP_CACHE, VOLUMES, DOORS):
            make(data, name, self.uid)
        js = (*self.node.binds, *self.node.npm_binds) if self.node else ()
        binds = (*self.python.binds, *js, *self.pinned.binds, *self.index.binds, *egress.binds(), *self.registry.binds)
        sources = [bind.source for bind in binds]
        sources += [pypi_builder.pip(), str(pathlib.Path(guard.__file__).resolve()), *npm_modules.tools()]
        sources += bundler.tools()
        sources += [self._readable(os.path.realpath(one)) for one in config.deploy.wheel_dirs]
        return messages.House(
            platform=hashlib.sha256(os.fsencode(data)).hexdigest()[:_ID],
            host=self.host,
            uid=self.uid,
            uid_first=config.sandbox.uid_first if self.drops else 0,
            uid_count=config.sandbox.uid_count if self.drops else 0,
            fixed=tuple(dict.fromkeys([*sources, *more])),
            artefacts=str(data / ARTEFACTS),
            work=str(data / WORK),
            caches=(str(data / PIP_CACHE),),
            volumes=str(data / VOLUMES),
            doors=str(data / DOORS),
        )


def make(data: pathlib.Path, name: str, uid: int) -> None:
    """Make `name` below `data`, each new directory closed to others and the property of `uid`.

    `data` may be in hostile hands, and this process root: step by step, and through no link. Raises OSError for one.
    """
    here = os.open(data, _FOLDER)
    try:
        for part in pathlib.PurePosixPath(name).parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode=0o700, dir_fd=here)
            inside = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = inside
            if uid != os.geteuid() and os.fstat(here).st_uid == os.geteuid():
                os.fchown(here, uid, uid)
    finally:
        os.close(here)
