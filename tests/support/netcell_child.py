"""Makes a cell's network as the launcher's child does, hands its sockets over, and becomes what it is told to.

Usage: netcell_child.py FD PORTS(JSON) UID; the command comes as one line of JSON on stdin.
"""

import ctypes
import json
import os
import socket
import sys

from smcp.sandbox import network

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def main() -> None:
    """Unshare, enter, hand over, exec."""
    out = socket.socket(fileno=int(sys.argv[1]))
    ports = json.loads(sys.argv[2])
    uid = int(sys.argv[3])
    libc = ctypes.CDLL(None, use_errno=True)
    flags = CLONE_NEWNET
    gid = uid if os.geteuid() == 0 else os.getgid()
    if uid:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            # Made undumpable by the change of uid; /proc/self/uid_map would be root's.
            libc.prctl(4, 1, 0, 0, 0)
        flags |= CLONE_NEWUSER
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            # No text file: this uid may not be able to read the codec from the interpreter's directory any more.
            file = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(file, text.encode())
            os.close(file)
    made = network.enter(ports)
    socket.send_fds(out, [b"sockets"], [one.fileno() for one in made])
    out.close()
    argv = json.loads(sys.stdin.readline())
    os.execve(argv[0], argv, {})


if __name__ == "__main__":
    main()
