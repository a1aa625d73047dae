"""`python -m smcp.sandbox.launcher SOCKET`: the house comes on standard input, questions on the descriptor SOCKET."""

import contextlib
import errno
import os
import resource
import signal
import socket
import sys

import msgspec

from smcp.kernel import errors
from smcp.sandbox import cgroups, seccomp, walls
from smcp.sandbox.launcher import linux, messages, server, tidy


def main() -> int:
    """Serve one platform."""
    house = msgspec.json.decode(sys.stdin.buffer.read(), type=messages.House)
    peer = socket.socket(fileno=int(sys.argv[1]))
    peer.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C is for the foreground, which then ends the platform
    linux.no_new_privileges()
    linux.forget_keys()
    # A few descriptors for each cell that runs.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Nothing of a platform that died may be left before the next one starts.
    groups = cgroups.find(house.platform)
    swept = (groups.sweep() if groups is not None else 0) + tidy.sweep(house.platform)
    _own_view(house)
    if house.uid_first:
        tidy.reclaim(house.work, range(house.uid_first, house.uid_first + house.uid_count), house.uid)
    linux.not_dumpable()  # not before: the files of /proc/self would be root's, and the map of a user namespace too
    program = seccomp.program() if walls.SECCOMP in house.host.layers else b""
    answering = server.Server(house, peer, groups, program)
    # As if the platform had gone: the loop wakes up, ends every cell, and returns.
    signal.signal(signal.SIGTERM, lambda _number, _frame: peer.shutdown(socket.SHUT_RDWR))
    peer.send(msgspec.json.encode(messages.Ready(tuple(sorted(groups.layers)) if groups is not None else (), swept)))
    answering.serve()
    if groups is not None:
        groups.close()
    return 0


def _own_view(house: messages.House) -> None:
    """Mounts that nobody else sees, and that are gone when the launcher is."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        linux.unshare(linux.CLONE_NEWNS)
    else:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        # user_namespaces(7): without privilege, one line, for oneself, and never setgroups(2).
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
    # Both places lie where the platform may write: it must not lead this process to others by links.
    place = linux.open_plain(house.volumes, os.O_PATH | os.O_DIRECTORY)
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("volumes", f"/proc/self/fd/{place}", "tmpfs", flags, "mode=0700,size=1m")
    # Entered, and never named by its path again: the platform may move the directories above it.
    volumes = linux.open_plain(house.volumes, os.O_RDONLY | os.O_DIRECTORY)
    if os.fstat(volumes).st_dev == os.fstat(place).st_dev:
        raise OSError(errno.ELOOP, f"{house.volumes} is being moved")
    os.fchdir(volumes)
    os.close(volumes)
    os.close(place)
    for cache in house.caches if house.uid_first else ():
        with contextlib.suppress(OSError):
            place = linux.open_plain(cache, os.O_RDONLY | os.O_DIRECTORY)
            os.fchown(place, house.uid_first + 1, house.uid_first + 1)
            os.close(place)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, errors.SmcpError) as problem:
        sys.stderr.write(f"launcher: {problem}\n")
        sys.exit(1)
