"""How the fetch reaches packages: pip's ordinary configuration, carried into the sandbox.

The operator configures pip once, the ordinary way: `PIP_*` variables and pip.conf (global, user, `PIP_CONFIG_FILE`).
What concerns *where and how to connect* is taken over, by a closed list; what would change what pip does (targets,
sdists, log files) is not. Values may hold credentials of a private index: they go into the sandbox's environment, which
neither argv nor logs show, and `secrets` is what has to be cut out of anything that pip says.
"""

import configparser
import os
import pathlib
import posixpath
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from smcp.deploy import reach
from smcp.kernel import redact
from smcp.sandbox import walls

_OPTIONS: Final = frozenset(
    {
        "cert", "client-cert", "constraint", "default-timeout", "extra-index-url", "find-links", "index-url",
        "no-index", "pre", "prefer-binary", "proxy", "resume-retries", "retries", "timeout", "trusted-host",
        "uploaded-prior-to",
    }
)  # fmt: skip
_FILES: Final = ("cert", "client-cert", "constraint")
_URLS: Final = ("extra-index-url", "find-links", "index-url")
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_CA_FILES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_CERTIFICATES: Final = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates")
_USERINFO: Final = re.compile(r"://([^/@\s]+)@")


class Index(msgspec.Struct, frozen=True):
    """The environment and the binds that pip needs in the fetch."""

    env: tuple[tuple[str, str], ...]
    binds: tuple[walls.Bind, ...]
    secrets: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    """What the configuration names, as `host:port`: indexes, places with links, proxies."""

    def __repr__(self) -> str:
        return f"Index({', '.join(name for name, _ in self.env)})"

    def clean(self, text: str) -> str:
        """`text` without any credential of the configuration."""
        for secret in self.secrets:
            text = text.replace(secret, redact.GONE)
        return redact.text(_USERINFO.sub(f"://{redact.GONE}@", text))


def read(environ: Mapping[str, str], files: Iterable[pathlib.Path] | None = None) -> Index:
    """pip's configuration as `environ` and the configuration files say. Blocking; an unreadable file counts as none."""
    options: dict[str, str] = {}
    for file in config_files(environ) if files is None else files:
        options.update(_from_file(file))
    for name, value in environ.items():
        option = name.removeprefix("PIP_").lower().replace("_", "-")
        if name.startswith("PIP_") and option in _OPTIONS and value:
            options[option] = value
    env = {f"PIP_{option.upper().replace('-', '_')}": value for option, value in sorted(options.items())}
    for name in (*_PROXIES, *(name.upper() for name in _PROXIES), *_CA_FILES):
        if environ.get(name):
            env[name] = environ[name]
    return Index(tuple(env.items()), _binds(options, environ), _secrets(env.values()), _hosts(options, env))


def config_files(environ: Mapping[str, str]) -> list[pathlib.Path]:
    """pip's configuration files, weakest first (pip documentation, "Configuration Files": global, user, named)."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = pathlib.Path(environ.get("HOME") or "/nonexistent")
    user = pathlib.Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [pathlib.Path("/etc/xdg/pip/pip.conf"), pathlib.Path("/etc/pip.conf")]
    places += [home / ".pip/pip.conf", user / "pip/pip.conf"]
    return [*places, pathlib.Path(named)] if named else places


def _from_file(path: pathlib.Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    found: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            found.update({name.replace("_", "-"): " ".join(value.split()) for name, value in parser.items(section)})
    return {name: value for name, value in found.items() if name in _OPTIONS and value}


def _binds(options: Mapping[str, str], environ: Mapping[str, str]) -> tuple[walls.Bind, ...]:
    wanted = [*_CERTIFICATES]
    wanted += [options[name] for name in _FILES if name in options]
    wanted += [environ[name] for name in _CA_FILES if environ.get(name)]
    for name in _URLS:
        wanted += [_local(part) for part in options.get(name, "").split()]
    kept: list[str] = []
    for path in sorted({_normal(one) for one in wanted} - {""}):
        # A parent that is mounted brings its children along; sorting puts it first.
        if not any(path == above or path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    # /etc/resolv.conf is often a link into /run: the bind's source is resolved, its target keeps the name.
    return tuple(walls.Bind(os.path.realpath(path), path) for path in kept)


def _hosts(options: Mapping[str, str], env: Mapping[str, str]) -> tuple[str, ...]:
    words = [word for name in (*_URLS, "proxy") for word in options.get(name, "").split() if not word.startswith("/")]
    words += [env[name] for name in env if name.lower() in _PROXIES and name.lower() != "no_proxy"]
    own = () if "index-url" in options or "no-index" in options else reach.pips_own()
    return (*reach.entries(words), *own)


def _local(word: str) -> str:
    """The directory behind an index or find-links value, or nothing when it is remote."""
    parts = urllib.parse.urlsplit(word)
    if parts.scheme not in ("", "file"):
        return ""
    path = urllib.parse.unquote(parts.path).rstrip("/") if parts.scheme else word.rstrip("/")
    # Mirrors keep the files beside the pages that link to them (PEP 503: `simple/`).
    return posixpath.dirname(path) if posixpath.basename(path) == "simple" else path


def _normal(path: str) -> str:
    if not path.startswith("/") or path.startswith("/usr/") or not os.path.exists(path):
        return ""
    normal = posixpath.normpath(path)
    return "" if normal == "/" or normal.startswith("//") else normal


def _secrets(values: Iterable[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for value in values:
        for match in _USERINFO.finditer(value):
            user, _, password = match[1].partition(":")
            # A token is often the user name with no password beside it.
            found.update({match[1], password, urllib.parse.unquote(password)})
            if not password:
                found.add(user)
    return tuple(sorted((one for one in found if len(one) > 2), key=len, reverse=True))
