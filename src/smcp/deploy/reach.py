"""What the fetch may reach: the hosts that the operator's configuration of package sources names, and no other.

The same guarded egress that hosted servers have (docs/decisions/0015) stands around the fetch; its list is the
operator's, so that a host of it may be on a private network.
"""

import importlib
import urllib.parse
from collections.abc import Iterable
from typing import Final

from smcp.kernel import errors
from smcp.sandbox.egress import rules

_PORTS: Final = {"http": 80, "https": 443}


def entries(words: Iterable[str]) -> tuple[str, ...]:
    """`host:port` of each URL (or bare `host:port`, as proxies are written); what names no host is left out."""
    found: dict[str, None] = {}
    for word in words:
        try:
            parts = urllib.parse.urlsplit(word if "://" in word else f"http://{word}")
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            continue
        host = (parts.hostname or "").rstrip(".")
        if host and port and ":" not in host:
            found[f"{host}:{port}"] = None
    return tuple(found)


def pips_own() -> tuple[str, ...]:
    """The index that pip uses when it is told nothing, and where that keeps its files: as pip itself knows them."""
    index = importlib.import_module("pip._internal.models.index").PyPI
    return entries((index.url, f"https://{index.file_storage_domain}"))


def allowed(named: Iterable[str], more: Iterable[str]) -> tuple[rules.Rule, ...]:
    """The rules for `named`, and for `more` (the setting deploy.package_hosts).

    Raises `errors.BadSettings` for an entry of the setting that is none.
    """
    try:
        return rules.parsed((*named, *more), trusted=True)
    except errors.InvalidParams as error:
        told = f"Package sources (deploy.package_hosts, or what pip and npm are configured with): {error.public}"
        raise errors.BadSettings(told) from error
