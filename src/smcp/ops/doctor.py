"""Is this machine fit to run SMCP? Small checks in one tuple; each says what it found, why it matters and what to do.

A check never changes anything and never raises: what it can't find out is itself a finding.
"""

import datetime
import enum
import os
import pathlib
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from smcp.kernel import certificates, errors, settings
from smcp.sandbox import probe, tools

_OLDEST_PYTHON: Final = (3, 11)
_LEAST_BYTES: Final = 1 << 30
_EARLIEST_NOW: Final = 1_767_225_600
"""2026-01-01: a clock behind that was never set."""
_ANSWER_S: Final = 20.0


class Status(enum.StrEnum):
    """How a check ended. Only `fail` keeps the platform from starting."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One finding."""

    name: str
    status: Status
    why: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty when all is well."""


def run(settings: settings.Settings, *, pinned: bool = True) -> list[Check]:
    """Every check's findings, in order. Without `pinned`, those programs are left out."""
    found = [finding for check in CHECKS for finding in check(settings)]
    return [*found, *(_pinned(one) for one in tools.PROGRAMS)] if pinned else found


def stale(today: datetime.date | None = None) -> list[Check]:
    """Which of the pinned programs are old, whether they are here or not: this SMCP has no newer ones."""
    return [found for one in tools.PROGRAMS if (found := _age(one, today)).status is not Status.OK]


def _python(_: settings.Settings) -> Iterable[Check]:
    found = platform.python_version()
    if sys.version_info >= _OLDEST_PYTHON:
        yield Check("python", Status.OK, f"Python {found}")
    else:
        yield Check("python", Status.FAIL, f"Python {found} is too old.", "Install Python 3.11 or newer.")


def _system(_: settings.Settings) -> Iterable[Check]:
    found = f"{platform.system()} {platform.release()}"
    if sys.platform == "linux":
        yield Check("system", Status.OK, found)
    else:
        yield Check("system", Status.FAIL, f"{found} has no namespaces.", "Run SMCP on Linux, or in a Linux VM.")


def _sandbox(wanted: settings.Settings) -> Iterable[Check]:
    required = set(wanted.sandbox.require)
    layers = probe.layers(wanted.sandbox)
    for layer in layers:
        if layer.present:
            yield Check(f"sandbox: {layer.name}", Status.OK, layer.why)
        else:
            # What is not in `sandbox.require` is a layer that the operator does without; it is still named.
            status = Status.FAIL if layer.name in required else Status.WARN
            yield Check(f"sandbox: {layer.name}", status, layer.why, layer.fix)
    for name in sorted(required - {layer.name for layer in layers}):
        yield Check(
            f"sandbox: {name}", Status.FAIL, "There is no such layer.", f"Take '{name}' out of sandbox.require."
        )


def _data_dir(wanted: settings.Settings) -> Iterable[Check]:
    directory = wanted.platform.directory()
    place = _nearest_existing(directory)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = f"Make {place} writable for this user, or set platform.data_dir to a directory that is."
        yield Check("data directory", Status.FAIL, f"{place} can't be written: {error.strerror}.", fix)
        return
    if place != directory:
        yield Check("data directory", Status.OK, f"{directory} will be made at the first start.")
        return
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o077:
        why = f"{directory} has the mode {mode:04o}: other users of this machine can look into it."
        yield Check("data directory", Status.WARN, why, f"chmod 0700 {directory}")
    else:
        yield Check("data directory", Status.OK, f"{directory}, writable, closed to other users")


def _root_key(wanted: settings.Settings) -> Iterable[Check]:
    file = wanted.platform.root_key()
    try:
        found = file.stat()
    except FileNotFoundError:
        if _holds_data(wanted.platform.directory()):
            fix = f"Put the root key back at {file} (mode 0600). Without it nothing that is stored can be read."
            yield Check("root key", Status.FAIL, f"{file} is missing, and there is data that it protects.", fix)
        else:
            yield Check("root key", Status.OK, f"{file} will be made at the first start.")
        return
    except OSError as error:
        yield Check(
            "root key", Status.FAIL, f"{file} can't be read: {error.strerror}.", "Run as the user that owns it."
        )
        return
    mode = stat.S_IMODE(found.st_mode)
    # Started as root, the platform gives that up: its files are its own user's.
    owners = (os.geteuid(), wanted.sandbox.uid_first) if os.geteuid() == 0 else (os.geteuid(),)
    if mode & 0o077:
        why = f"{file} has the mode {mode:04o}: who reads it can read everything that is stored."
        yield Check("root key", Status.FAIL, why, f"chmod 0600 {file}")
    elif found.st_uid not in owners:
        fix = f"Run as the user with the id {found.st_uid}, or chown the file."
        yield Check("root key", Status.FAIL, f"{file} belongs to another user.", fix)
    else:
        yield Check("root key", Status.OK, f"{file}, mode {mode:04o}")


def _port(wanted: settings.Settings) -> Iterable[Check]:
    host, port = wanted.gateway.host, wanted.gateway.port
    where = f"{host}:{port}"
    if port == 0:
        yield Check("port", Status.OK, "A free one is taken at the start.")
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probing:
            # As the server will: a port in TIME_WAIT is free.
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probing.bind(address)
    except OSError as error:
        fix = "Stop what listens there (maybe SMCP itself, which then is fine), or choose another gateway.port."
        yield Check("port", Status.WARN, f"{where} can't be taken: {error.strerror}.", fix)
    else:
        yield Check("port", Status.OK, f"{where} is free")


def _tls(wanted: settings.Settings) -> Iterable[Check]:
    if not wanted.tls.on:
        return
    try:
        facts = certificates.inspect(certificates.read(wanted.tls))
    except errors.BadSettings as error:
        # A platform that runs goes on with the pair that it has.
        yield Check("tls", Status.FAIL, error.public, "Put a certificate and its key there (docs/how-to/tls.md).")
        return
    name = next(iter((*facts.names, *facts.addresses)), "nothing")
    ends = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.ends))
    renew = "Renew it; a platform that runs notices by itself. Clients refuse a certificate outside of its time."
    if facts.begins > time.time():
        begins = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.begins))
        yield Check("tls", Status.WARN, f"The certificate for {name} begins {begins} only.", renew)
    elif facts.left() <= 0:
        yield Check("tls", Status.WARN, f"The certificate for {name} ended {ends}.", renew)
    elif facts.left() < certificates.SOON_S:
        yield Check("tls", Status.WARN, f"The certificate for {name} ends {ends}, in less than 14 days.", renew)
    else:
        yield Check("tls", Status.OK, f"A certificate for {name}, until {ends}; its key is closed to others.")


def _disk(wanted: settings.Settings) -> Iterable[Check]:
    place = _nearest_existing(wanted.platform.directory())
    free = shutil.disk_usage(place).free
    amount = f"{free / 2**30:.1f} GiB free at {place}"
    if free >= _LEAST_BYTES:
        yield Check("disk", Status.OK, amount)
    else:
        fix = "Make room: below 1 GiB a deployment may not fit, and a full disk refuses every write."
        yield Check("disk", Status.WARN, amount, fix)


def _clock(_: settings.Settings) -> Iterable[Check]:
    now = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now >= _EARLIEST_NOW:
        yield Check("clock", Status.OK, told)
    else:
        fix = "Set the clock (timedatectl set-ntp true): expiry of keys and the audit trail's times depend on it."
        yield Check("clock", Status.FAIL, f"The clock says {told}, which is past.", fix)


def _node(_: settings.Settings) -> Iterable[Check]:
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        why = f"{' and '.join(missing)} not found. Only servers from npm and the client tests need them."
        yield Check("node", Status.WARN, why, "Install Node.js 22 or newer, for instance with apt install nodejs npm.")
    else:
        yield Check("node", Status.OK, "node and npm found")


def _age(program: tools.Program, today: datetime.date | None = None) -> Check:
    days = max(0, ((today or datetime.datetime.now(datetime.UTC).date()) - program.released).days)
    if days <= program.stale_days:
        return Check(program.name, Status.OK, f"{program.label}, {days} days old")
    why = f"{program.label} is {days} days old: what was found in it since is not mended here."
    return Check(program.name, Status.WARN, why, "Update SMCP: a newer release brings a newer one.")


def _pinned(program: tools.Program) -> Check:
    here = tools.state(program, os.environ)
    if not here.whole:
        return Check(program.name, Status.WARN, here.why, here.fix)
    try:
        # Known byte by byte; what it needs of this machine (its C library) is not.
        done = subprocess.run(
            [here.path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False
        )
        starts, why = done.returncode == 0, done.stderr.decode("utf-8", "replace").strip()[-200:]
    except (OSError, subprocess.TimeoutExpired) as error:
        starts, why = False, str(error)
    if not starts:
        fix = "It needs a Linux with glibc 2.27 or newer. Without it everything but Workers runs."
        return Check(program.name, Status.WARN, f"{here.path} does not start: {why}", fix)
    return _age(program)


def _nearest_existing(path: pathlib.Path) -> pathlib.Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _holds_data(directory: pathlib.Path) -> bool:
    # `smcp up` makes its marker and its lock before there is anything to protect.
    before_data = ("keys", "smcp-data.json", "smcp.lock")
    return directory.is_dir() and any(entry.name not in before_data for entry in directory.iterdir())


CHECKS: Final[tuple[Callable[[settings.Settings], Iterable[Check]], ...]] = (
    _python,
    _system,
    _sandbox,
    _data_dir,
    _root_key,
    _port,
    _tls,
    _disk,
    _clock,
    _node,
)


def require_disk(wanted: settings.Settings, *, least: int = _LEAST_BYTES // 16) -> None:
    """Raises `errors.Unavailable` when the disk is as good as full. Cheap: for /readyz."""
    free = shutil.disk_usage(_nearest_existing(wanted.platform.directory())).free
    if free < least:
        raise errors.Unavailable(detail=f"{free} bytes free on the data directory's disk")
