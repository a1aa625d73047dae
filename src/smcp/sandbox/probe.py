"""What this machine offers for walls, found by trying, and for each missing layer the command that brings it.

Nothing here is remembered: `host` is asked once at start by `app.wire`, and again by `smcp doctor`.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from typing import Final, NamedTuple

from smcp.kernel import errors, settings
from smcp.sandbox import cgroups, gvisor, seccomp, walls

_PLACES: Final = "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin"
_TIMEOUT_S: Final = 60.0
_APPARMOR: Final = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_CLONE: Final = "/proc/sys/kernel/unprivileged_userns_clone"
_MOST: Final = "/proc/sys/user/max_user_namespaces"

_BWRAP: Final = (walls.NESTING, walls.TMP_SIZE, walls.PROC, walls.SECCOMP)
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
    walls.SECCOMP: "only listed system calls; every other is answered EPERM",
    walls.UID: "a uid of the host for each tenant, another for fetching, another for the platform",
    walls.MEMORY: "one memory limit over all that a cell holds, without swap (cgroup)",
    walls.PIDS: "one limit of processes and threads over a cell (cgroup)",
    walls.CPU: "one share of processor time for a cell (cgroup)",
    walls.GVISOR: "a kernel of its own, in user space, for the servers that ask for it",
}


class Layer(NamedTuple):
    """One layer of the walls: is it there, what is it for or why is it not there, and what brings it."""

    name: str
    present: bool
    why: str
    fix: str


def layers(limits: settings.Sandbox) -> list[Layer]:
    """Every layer, tried on this machine (a few milliseconds each; blocking)."""
    bwrap = shutil.which("bwrap", path=_PLACES)
    prlimit = shutil.which("prlimit", path=_PLACES)
    others = [_uid(limits), *_groups()]
    if bwrap is None:
        why = "bubblewrap is not installed"
        fix = "sudo apt-get install bubblewrap"
        found = [Layer(name, False, why, fix) for name in (*walls.NAMESPACES, *_BWRAP)]
        return [*found, _limits(prlimit), *others, Layer(walls.GVISOR, False, why, fix)]
    uid = limits.uid_first if others[0].present else None
    trial = _Trial(bwrap, uid)
    options = trial.help()
    # Everything but `cgroup` and `limits` needs a user namespace when who asks is not root.
    base = ["--unshare-user"] if trial.works(["--unshare-user"]) is None else []
    found = [
        *(_try(name, trial, [*base, f"--unshare-{name}"]) for name in walls.NAMESPACES),
        _option(walls.NESTING, "--disable-userns", options, lambda: trial.works([*base, "--disable-userns"])),
        _option(walls.TMP_SIZE, "--size", options, lambda: trial.works(base, ("--size", "65536", "--tmpfs", "/mnt"))),
        _try(walls.PROC, trial, [*base, "--unshare-pid"], ("--proc", "/proc")),
        _limits(prlimit),
        _seccomp(trial, base),
        *others,
    ]
    return [*found, _gvisor(uid, {layer.name for layer in found if layer.present})]


def host(limits: settings.Sandbox, found: list[Layer] | None = None) -> walls.Host:
    """What the walls may use here. Raises `errors.SandboxMissing` when a layer of `sandbox.require` is not there."""
    tried = layers(limits) if found is None else found
    unknown = sorted(set(limits.require) - set(walls.LAYERS))
    if unknown:
        raise errors.BadSettings(
            f"sandbox.require names {', '.join(unknown)}; the layers are {', '.join(walls.LAYERS)}."
        )
    missing = [layer for layer in tried if not layer.present and layer.name in limits.require]
    if missing:
        told = "; ".join(f"{layer.name} ({layer.why}; fix: {layer.fix})" for layer in missing)
        raise errors.SandboxMissing(f"The sandbox lacks what sandbox.require asks for: {told}.")
    bwrap = shutil.which("bwrap", path=_PLACES)
    if bwrap is None:
        raise errors.SandboxMissing("bubblewrap is not installed. Run: sudo apt-get install bubblewrap")
    present = frozenset(layer.name for layer in tried if layer.present)
    return walls.Host(
        bwrap=bwrap,
        prlimit=shutil.which("prlimit", path=_PLACES) or "",
        runsc=(shutil.which("runsc", path=_PLACES) or "") if walls.GVISOR in present else "",
        layers=present,
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


class _Trial:
    """bubblewrap, tried as the user that cells will run as."""

    def __init__(self, bwrap: str, uid: int | None) -> None:
        self._bwrap = bwrap
        self._uid = uid

    def help(self) -> str:
        """What it says of its options."""
        return self._ran([self._bwrap, "--help"]).stdout.decode("utf-8", "replace")

    def works(self, words: list[str], mounts: tuple[str, ...] = (), fds: tuple[int, ...] = ()) -> str | None:
        """None when it can do it, else the last line that it said."""
        # Else bubblewrap ends before its own first process inside does, which whoever is pid 1 here would have to bury.
        first = ["--as-pid-1"] if "--unshare-pid" in words else []
        try:
            done = self._ran([self._bwrap, *words, *first, "--ro-bind", "/", "/", *mounts, "--", "/bin/true"], fds)
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        return None if done.returncode == 0 else _last(done)

    def _ran(self, command: list[str], fds: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[bytes]":
        return _ran(command, self._uid, fds)


def _ran(command: list[str], uid: int | None, fds: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        command,
        env={},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
        pass_fds=fds,
    )


def _last(done: "subprocess.CompletedProcess[bytes]") -> str:
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return (said or [f"exit code {done.returncode}"])[-1][:300]


def _try(name: str, trial: _Trial, words: list[str], mounts: tuple[str, ...] = ()) -> Layer:
    said = trial.works(words, mounts)
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


def _seccomp(trial: _Trial, base: list[str]) -> Layer:
    try:
        program = seccomp.program()
    except errors.SandboxMissing as error:
        return Layer(walls.SECCOMP, False, error.public, "run SMCP on x86-64 or ARM64")
    with tempfile.TemporaryFile() as file:
        file.write(program)
        file.seek(0)
        said = trial.works([*base, "--seccomp", str(file.fileno())], fds=(file.fileno(),))
    if said is None:
        return Layer(walls.SECCOMP, True, _MEANING[walls.SECCOMP], "")
    return Layer(walls.SECCOMP, False, f"bubblewrap says: {said}", "use a kernel with CONFIG_SECCOMP_FILTER")


def _uid(limits: settings.Sandbox) -> Layer:
    if os.geteuid() != 0:
        return Layer(
            walls.UID,
            False,
            "all tenants' servers run as this user, apart from each other by namespaces only",
            "start 'smcp up' as root: it drops to uids of its own (sandbox.uid_first)",
        )
    last = limits.uid_first + limits.uid_count
    for line in (_switch("/proc/self/uid_map") or "0 0 4294967295").splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= limits.uid_first and last <= first + count:
            return Layer(walls.UID, True, _MEANING[walls.UID], "")
    return Layer(
        walls.UID,
        False,
        f"the uids {limits.uid_first} to {last} are not mapped in this container",
        "set sandbox.uid_first and sandbox.uid_count to a range of /proc/self/uid_map",
    )


def _gvisor(uid: int | None, present: set[str]) -> Layer:
    runsc = shutil.which("runsc", path=_PLACES)
    if runsc is None:
        return Layer(
            walls.GVISOR,
            False,
            'runsc is not installed; only servers with runtime = "gvisor" need it',
            "sudo apt-get install runsc (Debian), or see gvisor.dev for other systems; then restart the platform",
        )
    lacking = [name for name in gvisor.NEEDS if name not in present]
    if lacking:
        return Layer(walls.GVISOR, False, f"it needs {', '.join(lacking)}", "as for that layer")
    said = _ran_in_gvisor(runsc, uid)
    if said is None:
        return Layer(walls.GVISOR, True, _MEANING[walls.GVISOR], "")
    return Layer(walls.GVISOR, False, f"runsc says: {said}", f"sudo {runsc} --rootless do /bin/true  # shows more")


def _ran_in_gvisor(runsc: str, uid: int | None) -> str | None:
    """None when it runs a command in gVisor as the user that cells will run as, else the last line that it said."""
    with tempfile.TemporaryDirectory() as state:
        if uid is not None:
            os.chown(state, uid, uid)
        command = [runsc, "--rootless", "--ignore-cgroups", "--network=none", "--overlay2=none", f"--root={state}"]
        try:
            done = _ran([*command, "do", "/bin/true"], uid)
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    return None if done.returncode == 0 else _last(done)


def _groups() -> list[Layer]:
    # One name for every trial: where a container's processes have to be moved for it, they stay in that one place.
    found = cgroups.look("probe")
    if found.groups is not None:
        found.groups.close()
    missing = found.why
    return [Layer(name, name not in missing, *missing.get(name, (_MEANING[name], ""))) for name in walls.GROUPS]


def _switch(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
