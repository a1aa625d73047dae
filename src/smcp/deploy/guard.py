"""Runs pip in the fetch's sandbox so that it can start no process and call no private address. Standard library only.

`--only-binary=:all:` keeps pip from building source distributions of an index, but a package may require
`x @ git+https://…` or an archive by URL: pip would run git, or the build backend that the archive brings. Both need a
new process, and the audit hook (PEP 578; it can't be taken away again) refuses every one: **the fetch runs no package
code**. The same hook refuses connections to addresses that are not public, unless pip's own configuration leads there:
the network of the fetch is the host's, and a requirement's URL must not reach what only the host can reach (cloud
metadata, the platform itself).

Usage: python -I guard.py <directory of pip> <pip's arguments…>. Runs inside only; nothing imports it but tests.
"""

import contextlib
import importlib
import ipaddress
import os
import runpy
import socket
import sys
import urllib.parse
from collections.abc import Mapping

URL_VARIABLES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_PROXY",
    *(name for word in ("http_proxy", "https_proxy", "all_proxy") for name in (word, word.upper())),
)
SPAWNING = frozenset(
    {"subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "pty.spawn"}
)


class Refused(PermissionError):
    """An OSError, because callers of optional programs expect one."""


def configured(environ: Mapping[str, str], default: frozenset[str]) -> set[str]:
    """The host names that pip's configuration names; `default` when it names no index."""
    words = [word for name in URL_VARIABLES for word in environ.get(name, "").split()]
    hosts = {
        urllib.parse.urlsplit(word if "://" in word else f"http://{word}").hostname for word in words if word[0] != "/"
    }
    if "PIP_INDEX_URL" not in environ:
        hosts |= default
    return {host for host in hosts if host}


def _own() -> frozenset[str]:
    """The hosts of the index that pip uses when it is told nothing, as pip itself knows them."""
    index = importlib.import_module("pip._internal.models.index").PyPI
    return frozenset({index.netloc, index.file_storage_domain})


def addresses(hosts: set[str]) -> set[str]:
    """What the names lead to now."""
    found: set[str] = set()
    for host in hosts:
        with contextlib.suppress(OSError, UnicodeError):
            found.update(str(entry[4][0]) for entry in socket.getaddrinfo(host, None))
    return found


def may_connect(address: object, allowed: set[str]) -> bool:
    """Public addresses, and those the configuration leads to. With a private index, also its private network."""
    if not isinstance(address, tuple) or not address or not isinstance(address[0], str):
        return False
    try:
        target = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(target, "ipv4_mapped", None)
    plain = mapped or target
    if str(plain) in allowed or plain.is_global:
        return True
    closed = plain.is_link_local or plain.is_loopback or plain.is_unspecified or plain.is_multicast
    return not closed and any(_private(one) for one in allowed)


def _private(address: str) -> bool:
    one = ipaddress.ip_address(address.partition("%")[0])
    return one.is_private and not one.is_loopback and not one.is_link_local


def main() -> None:
    """Install the hook and become pip."""
    del sys.argv[0]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    allowed = addresses(configured(os.environ, _own()))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in SPAWNING:
            raise Refused(f"the fetch starts no process ({event})")
        if event == "socket.connect" and not may_connect(arguments[1], allowed):
            raise Refused(f"the fetch does not connect to {arguments[1]}")

    sys.addaudithook(hook)
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
