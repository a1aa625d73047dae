"""What this machine offers for walls, found by trying, and for each missing layer the command that brings it.

Nothing here is remembered: `host` is asked once at start by `app.wire`, and again by `smcp doctor`.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from smcp.kernel import errors
from smcp.sandbox import walls

_PLACES: Final = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
_TIMEOUT_S: Final = 10.0
_APPARMOR: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_CLONE: Final = "/proc/sys/kernel/unprivileged_userns_clone"
_MOST: Final = "/proc/sys/user/max_user_namespaces"

_MEANING: Final = {
    walls.USER: "a user namespace: no identity of the host inside",
    walls.PID: "a pid namespace: no process of the host visible, and all die together",
    walls.NET: "a network namespace: no network at all",
    walls.IPC: "an IPC namespace: no shared memory of the host",
    walls.UTS: "a host name of its own",
    walls.CGROUP: "a cgroup namespace: the host's groups are not visible",
    walls.NESTING: "no further user namespace can be made inside",
    walls.TMP_SIZE: "a /tmp of limited size",
    walls.PROC: "a /proc of its own",
    walls.LIMITS: "limits for memory, files and processes",
}


class Layer(NamedTuple):
    """One layer of the walls: is it there, what is it for or why is it not there, and what brings it."""

    name: str
    present: bool
    why: str
    fix: str


def layers() -> list[Layer]:
    """Every layer, tried on this machine (a few dozen milliseconds each; blocking)."""
    bwrap = shutil.which("bwrap", path=_PLACES)
    prlimit = shutil.which("prlimit", path=_PLACES)
    if bwrap is None:
        why = "bubblewrap is not installed"
        fix = "sudo apt-get install bubblewrap"
        found = [Layer(name, False, why, fix) for name in walls.LAYERS if name != walls.LIMITS]
        return [*found, _limits(prlimit)]
    options = _output([bwrap, "--help"])
    # Everything but `cgroup` and `limits` needs a user namespace when the platform is not root.
    base = ["--unshare-user"] if _works(bwrap, ["--unshare-user"]) is None else []
    found = [_try(name, bwrap, [*base, f"--unshare-{name}"]) for name in walls.NAMESPACES]
    return [
        *found,
        _option(walls.NESTING, "--disable-userns", options, lambda: _works(bwrap, [*base, "--disable-userns"])),
        _option(walls.TMP_SIZE, "--size", options, lambda: _works(bwrap, base, ("--size", "65536", "--tmpfs", "/mnt"))),
        _try(walls.PROC, bwrap, [*base, "--unshare-pid"], ("--proc", "/proc")),
        _limits(prlimit),
    ]


def host(require: Collection[str], found: list[Layer] | None = None) -> walls.Host:
    """What `walls.command` may use here. Raises `errors.SandboxMissing` when a layer in `require` is not there."""
    tried = layers() if found is None else found
    unknown = sorted(set(require) - set(walls.LAYERS))
    if unknown:
        raise errors.BadSettings(
            f"sandbox.require names {', '.join(unknown)}; the layers are {', '.join(walls.LAYERS)}."
        )
    missing = [layer for layer in tried if not layer.present and layer.name in require]
    if missing:
        told = "; ".join(f"{layer.name} ({layer.why}; fix: {layer.fix})" for layer in missing)
        raise errors.SandboxMissing(f"The sandbox lacks what sandbox.require asks for: {told}.")
    bwrap = shutil.which("bwrap", path=_PLACES)
    if bwrap is None:
        raise errors.SandboxMissing("bubblewrap is not installed. Run: sudo apt-get install bubblewrap")
    return walls.Host(
        bwrap=bwrap,
        prlimit=shutil.which("prlimit", path=_PLACES) or "",
        layers=frozenset(layer.name for layer in tried if layer.present),
    )


def explain(name: str, said: str, read: Callable[[str], str] | None = None) -> tuple[str, str]:
    """Why a layer is missing, from what bwrap said and the kernel's switches, and the exact fix."""
    switch = read or _switch
    if name == walls.PROC and ("proc" in said or "permitted" in said):
        return (
            "a fresh /proc may not be mounted here: a container masks parts of its own /proc",
            "start it with --security-opt systempaths=unconfined (Docker), procMount: Unmasked (Kubernetes)",
        )
    if "uid map" in said or "permitted" in said or "namespace" in said or "denied" in said:
        if switch(_APPARMOR) == "1":
            return (
                "AppArmor forbids unprivileged user namespaces (Ubuntu 23.10 and later)",
                "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for bwrap with"
                " the rule 'userns,'",
            )
        if switch(_CLONE) == "0":
            return (
                "the kernel forbids unprivileged user namespaces",
                "sudo sysctl -w kernel.unprivileged_userns_clone=1",
            )
        if switch(_MOST) == "0":
            return "the kernel allows no user namespaces", "sudo sysctl -w user.max_user_namespaces=15000"
        return (
            f"not permitted here: {said}",
            "in a container: --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or run as root with"
            " --cap-add SYS_ADMIN",
        )
    return f"bubblewrap says: {said}", "see 'smcp doctor' and docs/how-to for sandboxes in containers"


def _try(name: str, bwrap: str, words: list[str], mounts: tuple[str, ...] = ()) -> Layer:
    said = _works(bwrap, words, mounts)
    if said is None:
        return Layer(name, True, _MEANING[name], "")
    return Layer(name, False, *explain(name, said))


def _option(name: str, option: str, help_text: str, works: Callable[[], str | None]) -> Layer:
    if re.search(rf"^\s+{re.escape(option)}\b", help_text, re.MULTILINE) is None:
        return Layer(
            name, False, f"this bubblewrap has no {option}", "install bubblewrap 0.8 or later (Debian 12, Ubuntu 24.04)"
        )
    said = works()
    return Layer(name, True, _MEANING[name], "") if said is None else Layer(name, False, *explain(name, said))


def _limits(prlimit: str | None) -> Layer:
    if prlimit is None:
        return Layer(walls.LIMITS, False, "prlimit is not installed", "sudo apt-get install util-linux")
    return Layer(walls.LIMITS, True, _MEANING[walls.LIMITS], "")


def _works(bwrap: str, words: list[str], mounts: tuple[str, ...] = ()) -> str | None:
    """None when bwrap can do it, else the last line that it said."""
    try:
        done = subprocess.run(
            [bwrap, *words, "--ro-bind", "/", "/", *mounts, "--", "/bin/true"],
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _switch(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
