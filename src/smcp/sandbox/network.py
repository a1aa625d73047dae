"""A cell's own network: every IPv4 address is local, and what listens there was handed to the platform.

`enter` runs in the launcher's forked child, after `unshare(CLONE_NEWNET)` and while the child still has CAP_NET_ADMIN
over the new namespace; what it returns is sent to the platform (SCM_RIGHTS). A socket belongs to the namespace that it
was made in, whoever holds it, so the platform answers inside the cell without a process or an address there. Standard
library only: the launcher imports it.

What the namespace is, and why nothing leaves it:
- Its only device that is up is `lo`; there is no link to the host, hence no route out, for no protocol. The AnyIP route
  ("local default dev lo", ip-route(8)) makes the kernel deliver every IPv4 packet to the namespace itself: a TCP
  connection to any address arrives at our listener of that port, and is refused by the kernel where we have none. UDP
  and ICMP end there too.
- IPv6: the kernel gives `lo` the address ::1 and nothing else; there is no route, so every other address is
  unreachable. An IPv4-mapped address (::ffff:a.b.c.d) is IPv4 and arrives at the listener.
- Abstract unix sockets belong to a network namespace (network_namespaces(7)): those of the host are not reachable.
- /proc/sys/net shows this namespace only. Changing it needs CAP_NET_ADMIN here or the namespace owner's uid, which is
  the tenant's only in rootless mode; the walls mount /proc/sys read-only, and what could be changed is the cell's own.
- Packet sockets and routes need capabilities, which the walls drop. AF_VSOCK is not namespaced: seccomp refuses it.

The cell's own use of loopback works as ever, except on the ports that are held here.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

DNS_PORT: Final = 53
MOST_PORTS: Final = 18
"""As many as `egress.rules.ports` ever hands out."""

_BACKLOG: Final = 128
_TIMEOUT_S: Final = 5.0
# linux/netlink.h, linux/rtnetlink.h, linux/if.h
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_EXCL_CREATE: Final = 0x200 | 0x400
_RTM_NEWLINK: Final = 16
_RTM_NEWROUTE: Final = 24
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1
_RT_TABLE_LOCAL: Final = 255
_RTPROT_BOOT: Final = 3
_RT_SCOPE_HOST: Final = 254
_RTN_LOCAL: Final = 2
_RTA_OIF: Final = 4
_HEADER: Final = struct.Struct("=IHHII")


def enter(ports: Sequence[int]) -> list[socket.socket]:
    """Make this process's fresh network namespace the cell's; returns what listens in it.

    First a UDP socket on 127.0.0.1:53, then one TCP listener on 0.0.0.0 for each of `ports`, in their order. All are
    close-on-exec. Raises OSError when the kernel refuses a step, and ValueError for ports that no rule can name.
    Never call it in the host's namespace: it would make every address local there.
    """
    if len(set(ports)) != len(ports) or len(ports) > MOST_PORTS or any(not 0 < port < 65536 for port in ports):
        raise ValueError("ports are distinct, 1 to 65535, and few")
    if _is_up("lo"):
        raise OSError(errno.EINVAL, "this network namespace is not a fresh one")
    _bring_up()
    made: list[socket.socket] = []
    try:
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[-1].bind(("127.0.0.1", DNS_PORT))
        for port in ports:
            made.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made[-1].bind(("0.0.0.0", port))  # noqa: S104 - of the cell's namespace
            made[-1].listen(_BACKLOG)
    except OSError:
        for one in made:
            one.close()
        raise
    return made


def _is_up(device: str) -> bool:
    """Whether it was brought up already; in a fresh namespace nothing is (it may have more devices, as sit0)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_one:
        answer = fcntl.ioctl(any_one, _SIOCGIFFLAGS, struct.pack("16s24x", device.encode()))
    return bool(struct.unpack_from("=H", answer, 16)[0] & _IFF_UP)


def _bring_up() -> None:
    """`ip link set lo up; ip route add local default dev lo`, by rtnetlink(7)."""
    lo = socket.if_nametoindex("lo")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.bind((0, 0))
        # struct ifinfomsg: family, padding, type, index, flags, which of the flags change
        _ask(kernel, 1, _RTM_NEWLINK, 0, struct.pack("=BBHiII", socket.AF_UNSPEC, 0, 0, lo, _IFF_UP, _IFF_UP))
        # struct rtmsg: family, bits of destination and source, tos, table, protocol, scope, type, flags
        route = (socket.AF_INET, 0, 0, 0, _RT_TABLE_LOCAL, _RTPROT_BOOT, _RT_SCOPE_HOST, _RTN_LOCAL, 0)
        device = struct.pack("=HHi", 8, _RTA_OIF, lo)
        _ask(kernel, 2, _RTM_NEWROUTE, _NLM_F_EXCL_CREATE, struct.pack("=8BI", *route) + device)


def _ask(kernel: socket.socket, number: int, kind: int, flags: int, body: bytes) -> None:
    """Send one request and wait for its acknowledgement. Raises OSError with the kernel's errno."""
    length = _HEADER.size + len(body)
    kernel.send(_HEADER.pack(length, kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, number, 0) + body)
    answer = kernel.recv(65536)
    _, told, _, sequence, _ = _HEADER.unpack_from(answer)
    if told != _NLMSG_ERROR or sequence != number:
        raise OSError(errno.EPROTO, "the kernel did not acknowledge a network request")
    (code,) = struct.unpack_from("=i", answer, _HEADER.size)
    if code:
        raise OSError(-code, f"the cell's network can't be made: {os.strerror(-code)}")
