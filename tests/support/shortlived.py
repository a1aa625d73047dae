"""A platform in a process of its own whose tokens live as briefly as a test says.

`python -m support.shortlived DIRECTORY LIVES [SHELF]` (in tests/) serves until its standard input ends. LIVES is the
JSON of a `Lifetimes`, SHELF a directory of wheels. No setting and no variable says how long tokens live: only whoever
composes a platform does.
"""

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Generator
from typing import Final, NamedTuple

import msgspec

from smcp.app import serve
from smcp.identity.oauth import lifetimes
from smcp.kernel import settings

_TESTS: Final = pathlib.Path(__file__).parents[1]
_STOP_S: Final = 60.0
_MANY: Final = 1_000_000


class Running(NamedTuple):
    """Where it is, and the operator's key."""

    base_url: str
    key: str


@contextlib.contextmanager
def opened(
    directory: pathlib.Path, lives: lifetimes.Lifetimes, shelf: pathlib.Path | None = None
) -> Generator[Running]:
    """The platform, running, with nothing in it; what is deployed there is looked for on `shelf`, too."""
    shelves = [] if shelf is None else [str(shelf)]
    argv = [sys.executable, "-m", "support.shortlived", str(directory), msgspec.json.encode(lives).decode(), *shelves]
    with subprocess.Popen(argv, cwd=_TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, "it ended before it was ready"
            yield Running(**json.loads(said))
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                assert process.wait(_STOP_S) == 0
            finally:
                process.kill()


async def _main(directory: str, lives: lifetimes.Lifetimes, shelves: tuple[str, ...]) -> None:
    config = settings.Settings(
        platform=settings.Platform(data_dir=directory),
        gateway=settings.Gateway(port=0, trusted_proxies=("127.0.0.1/32",)),
        deploy=settings.Deploy(wheel_dirs=shelves),
        limits=settings.Limits(unauthenticated_per_minute=_MANY, tenant_per_minute=_MANY, principal_per_minute=_MANY),
    )
    platform = await serve.Platform.start(config, lives=lives)
    try:
        key = await platform.ensure_operator()
        print(json.dumps({"base_url": platform.base_url, "key": key}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await platform.stop()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=lifetimes.Lifetimes), tuple(sys.argv[3:])))
