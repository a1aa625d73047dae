"""What a cell with egress needs in /etc, for glibc, musl and what reads these files itself (Go, c-ares)."""

import os
from typing import Final

from smcp.sandbox import walls

BUNDLE: Final = "/etc/ssl/certs/ca-certificates.crt"
ENV: Final = (("SSL_CERT_FILE", BUNDLE),)
"""For an OpenSSL that was not built by the distribution. Goes before the tenant's variables, which may change it."""

# Debian and Ubuntu, Fedora and its kin, openSUSE, Alpine.
_BUNDLES: Final = (
    BUNDLE,
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# Who answers is the platform itself, at once or, while it or its machine is held up, later: no name is lost for that.
_FILES: Final = (
    ("/etc/resolv.conf", "nameserver 127.0.0.1\noptions ndots:1 timeout:10 attempts:3\n"),
    ("/etc/hosts", "127.0.0.1 localhost sandbox\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
)


def files() -> tuple[walls.File, ...]:
    """The name system's files, for a cell with egress."""
    return tuple(walls.File(path, content.encode("ascii")) for path, content in _FILES)


def binds() -> tuple[walls.Bind, ...]:
    """The host's certificate authorities, without which nothing inside can check who answers; none if it has none."""
    for path in _BUNDLES:
        # Binds name real files: the launcher follows no link.
        if os.path.isfile(path):
            return (walls.Bind(os.path.realpath(path), BUNDLE),)
    return ()
