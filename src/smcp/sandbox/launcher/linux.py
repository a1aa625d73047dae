"""System calls that Python 3.11 lacks, thinly: clone3(2), unshare(2), mount(2), umount2(2), openat2(2),
close_range(2), mount_setattr(2), recvmsg(2) with its flags, prctl(2).

Each raises OSError with errno, as the functions of `os` do.
"""

import array
import ctypes
import errno
import os
import signal
import socket
import struct
from typing import Final

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19

MNT_DETACH: Final = 2

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38

_CLONE_PIDFD: Final = 0x1000
_CLONE_INTO_CGROUP: Final = 0x200000000
"""Linux 5.7."""
_CLONE3: Final = 435
_CLOSE_RANGE: Final = 436
_CLOSE_RANGE_CLOEXEC: Final = 0x4
_OPENAT2: Final = 437
_MOUNT_SETATTR: Final = 442
"""These numbers are the same on every architecture (Linux 5.3, 5.9, 5.6, 5.12)."""
_KEYCTL: Final = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_held: Final = ctypes.PyDLL(None, use_errno=True)
"""As `_libc`, with the interpreter's lock held: a fork copies what holds it."""
_held.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def fork(flags: int, cgroup: int | None = None) -> tuple[int, int]:
    """As `os.fork`, into the new namespaces of `flags` (clone3(2)): the child's pid, and a pidfd of it.

    `cgroup` is the directory of a group of version 2, to be born in: to move there later takes a lock of the whole
    system, and some milliseconds.

    In the child: 0, -1. The calls around it are what `os.fork` does (Python/C API, "Process Control").
    """
    pidfd = ctypes.c_int(-1)
    flags |= _CLONE_PIDFD | (0 if cgroup is None else _CLONE_INTO_CGROUP)
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack (2), tls, set_tid (2), cgroup
    first = (flags, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD)
    words = (ctypes.c_uint64 * 11)(*first, 0, 0, 0, 0, 0, cgroup or 0)
    size = ctypes.c_size_t(ctypes.sizeof(words))
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = int(_held.syscall(ctypes.c_long(_CLONE3), words, size))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"fork: {os.strerror(number)}")
    return pid, pidfd.value


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = (os.fsencode(source), os.fsencode(target), os.fsencode(kind))
    _checked(_libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) if data else None), f"mount {target}")


def umount(target: str) -> None:
    """umount2(2) with MNT_DETACH: gone from view at once, and for good when its last user has ended."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def read_only(path: str) -> None:
    """mount_setattr(2): nobody writes to the mount at `path`, nor to any below it."""
    attributes = struct.pack("=QQQQ", MS_RDONLY, 0, 0, 0)
    words = (ctypes.c_long(_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(_AT_RECURSIVE))
    _checked(_libc.syscall(*words, attributes, ctypes.c_size_t(len(attributes))), f"make {path} read-only")


def open_plain(path: str, flags: int) -> int:
    """openat2(2) of a path none of whose components may be a symbolic link. The result is close-on-exec.

    Raises OSError ELOOP for a link: what was checked as a string can't be swapped for another place afterwards.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    words = (ctypes.c_long(_OPENAT2), ctypes.c_int(_AT_FDCWD), os.fsencode(path), how, ctypes.c_size_t(len(how)))
    return _checked(_libc.syscall(*words), f"open {path}")


def chown(descriptor: int, uid: int) -> None:
    """fchownat(2) with AT_EMPTY_PATH: also of what is open with O_PATH, a link included; uid and gid."""
    owner = ctypes.c_uint(uid)
    _checked(_libc.fchownat(ctypes.c_int(descriptor), b"", owner, owner, ctypes.c_int(_AT_EMPTY_PATH)), "chown")


def receive(peer: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int], int]:
    """recvmsg(2): one datagram of at most `size` bytes, at most `most` descriptors, close-on-exec, and the flags.

    Not `socket.recv_fds`: that one forgets its flags (CPython 3.11 to 3.13), and what it receives would be inherited.
    """
    room = socket.CMSG_LEN(most * array.array("i").itemsize)
    data, ancillary, told, _ = peer.recvmsg(size, room, flags | socket.MSG_CMSG_CLOEXEC)
    found = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return data, list(found), told


def close_all_on_exec(first: int) -> None:
    """Mark every descriptor from `first` on as close-on-exec (close_range(2), Linux 5.11; before, one by one)."""
    words = (ctypes.c_long(_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(2**32 - 1))
    if _libc.syscall(*words, ctypes.c_uint(_CLOSE_RANGE_CLOEXEC)) != 0:
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.set_inheritable(int(name), False)
                except OSError:
                    continue  # the one that listed them


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: the kernel kills this process when its parent is gone. A new uid loses it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def no_new_privileges() -> None:
    """PR_SET_NO_NEW_PRIVS: no setuid file and no file capability counts any more, for this process and its children."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forget_keys() -> None:
    """KEYCTL_JOIN_SESSION_KEYRING: an empty one. Who possesses a session's keyring may read its keys, whatever its uid
    (session-keyring(7)), and it is kept over setuid(2) and execve(2).
    """
    number = _KEYCTL.get(os.uname().machine)
    if number is not None:
        try:
            _checked(_libc.syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None), "keyctl")
        except OSError as error:
            # A kernel without keyrings, or a container's filter, which refuses it to everybody in there.
            if error.errno not in (errno.ENOSYS, errno.EPERM):
                raise


def not_dumpable() -> None:
    """PR_SET_DUMPABLE 0: no core file, and nobody of the same uid may look into this process."""
    _prctl(_PR_SET_DUMPABLE, 0)
