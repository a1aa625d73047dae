"""How the fetch reaches npm packages: npm's ordinary configuration, carried into the sandbox.

The operator configures npm once, the ordinary way: `npm_config_*` variables and npmrc files (global, user). What
concerns *where and how to connect* is taken over, by a closed list; what would change what npm does (prefixes, scripts,
shells, log files) is not, and no npmrc of a package or project is ever read. The result is one file that exists only
inside the fetch; it may hold credentials of a private registry, and `secrets` is what has to be cut out of anything
that npm says.
"""

import base64
import json
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

FILE: Final = "/etc/smcp-npmrc"
"""Where the file is, inside."""

_OPTIONS: Final = frozenset(
    {
        "before", "ca", "cafile", "cert", "fetch-retries", "fetch-retry-factor", "fetch-retry-maxtimeout",
        "fetch-retry-mintimeout", "fetch-timeout", "https-proxy", "key", "local-address", "maxsockets",
        "min-release-age", "noproxy", "proxy", "registry", "replace-registry-host", "strict-ssl",
    }
)  # fmt: skip
# Of one registry: `//host/path/:_authToken` (npmrc documentation, "Auth related configuration").
_OF_REGISTRY: Final = re.compile(r"//[!-~]+/:(?:_authToken|_auth|username|_password|email|certfile|keyfile)", re.ASCII)
_OF_SCOPE: Final = re.compile(r"@[A-Za-z0-9._~-]{1,213}:registry", re.ASCII)
_FILES: Final = re.compile(r"cafile|.*:certfile|.*:keyfile")
_SECRET: Final = re.compile(r"key|.*:_authToken|.*:_auth|.*:_password")
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy", "proxy")
_CA_FILES: Final = ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "SSL_CERT_DIR")
_CERTIFICATES: Final = ("/etc/ssl", "/etc/pki", "/etc/ca-certificates")
_USERINFO: Final = re.compile(r"://([^/@\s]+)@")
_VARIABLE: Final = re.compile(r"(?<!\\)(\\*)\$\{([^${}?]+)(\?)?\}")
# npm's own waits between attempts are 10 and 60 s: somebody is waiting here.
_PATIENCE: Final = (("fetch-retry-mintimeout", "1000"), ("fetch-retry-maxtimeout", "5000"))
_SHORTEST_SECRET: Final = 3


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """What npm needs in the fetch."""

    options: tuple[tuple[str, str], ...] = ()
    """Of the npmrc, in order; `ca[]` may come several times."""
    env: tuple[tuple[str, str], ...] = ()
    binds: tuple[walls.Bind, ...] = ()
    secrets: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """Registries and proxies that are named, as `host:port`; npm's own default is not among them."""
    names_registry: bool = False
    """Whether a registry for packages without a scope is named: else npm's own default is used too."""

    def __repr__(self) -> str:
        return f"Registry({', '.join(name for name, _ in self.options)})"

    def file(self) -> walls.File:
        """The npmrc."""
        # npm's reader takes a JSON string as it is, whatever it holds (`ini`, "unsafe"): no line can be forged.
        # It would expand ${NAME} once more; what is left of them here meant themselves.
        named = {name for name, _ in self.options}
        options = (*(one for one in _PATIENCE if one[0] not in named), *self.options)
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in options if "${" not in value]
        return walls.File(FILE, "".join(lines).encode(), 0o444)

    def clean(self, text: str) -> str:
        """`text` without any credential of the configuration."""
        for secret in self.secrets:
            text = text.replace(secret, redact.GONE)
        return redact.text(_USERINFO.sub(f"://{redact.GONE}@", text))


def read(environ: Mapping[str, str], files: Iterable[pathlib.Path] | None = None) -> Registry:
    """npm's configuration as `environ` and the files say. Blocking; an unreadable file counts as none."""
    options: dict[str, list[str]] = {}
    for file in config_files(environ) if files is None else files:
        options.update(_from_file(file, environ))
    for name, value in environ.items():
        option = name[len("npm_config_") :]
        if not name.lower().startswith("npm_config_") or not value:
            continue
        if not option.startswith("//"):
            option = option[:1].lower() + option[1:].lower().replace("_", "-")
        if _taken(option):
            options[option] = [value]
    env = {name: environ[name] for name in (*_PROXIES, *(one.upper() for one in _PROXIES)) if environ.get(name)}
    env.update({name: environ[name] for name in _CA_FILES if environ.get(name)})
    flat = [
        (name if len(values) == 1 else f"{name}[]", value)
        for name, values in sorted(options.items())
        for value in values
    ]
    return Registry(
        options=tuple(flat),
        env=tuple(env.items()),
        binds=_binds(flat, environ),
        secrets=_secrets(flat, env.values()),
        hosts=_hosts(flat, env),
        names_registry="registry" in options,
    )


def config_files(environ: Mapping[str, str]) -> list[pathlib.Path]:
    """npm's configuration files, weakest first (npm documentation, "npmrc": global, then user)."""
    named = {name.lower(): value for name, value in environ.items() if name.lower().startswith("npm_config_")}
    home = environ.get("HOME") or "/nonexistent"
    places = [named.get("npm_config_globalconfig") or "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/npmrc"]
    if "npm_config_globalconfig" in named:
        del places[1:]
    return [pathlib.Path(one) for one in (*places, named.get("npm_config_userconfig") or f"{home}/.npmrc")]


def _taken(option: str) -> bool:
    return option in _OPTIONS or _OF_REGISTRY.fullmatch(option) is not None or _OF_SCOPE.fullmatch(option) is not None


def _from_file(path: pathlib.Path, environ: Mapping[str, str]) -> dict[str, list[str]]:
    """The options of an npmrc: `name = value`, `name[] = value`, `;` and `#` for comments (npm's `ini`)."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        name, value = _expanded(name.strip(), environ), _unquoted(value.strip())
        many = name.endswith("[]")
        name = name.removesuffix("[]")
        if not equals or name.startswith((";", "#", "[")) or not _taken(name) or not value:
            continue
        value = _expanded(value, environ)
        # npm reads \n of a one-line certificate as a line's end.
        value = value.replace("\\n", "\n") if name in ("ca", "cert", "key") else value
        found[name] = [*(found.get(name, []) if many else []), value]
    return found


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            return str(json.loads(value))
        except ValueError:
            return value[1:-1]
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value[1:-1]
    return re.split(r"(?<!\\)[;#]", value, maxsplit=1)[0].strip()


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    """`${NAME}` and `${NAME?}` as npm expands them in its own configuration: a missing one stays, or is nothing."""

    def value(match: re.Match[str]) -> str:
        if len(match[1]) % 2:
            return match[0][(len(match[1]) + 1) // 2 :]
        return match[1] + environ.get(match[2], "" if match[3] else match[0])

    return _VARIABLE.sub(value, text)


def _binds(options: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> tuple[walls.Bind, ...]:
    wanted = [*_CERTIFICATES, *(value for name, value in options if _FILES.fullmatch(name))]
    wanted += [environ[name] for name in _CA_FILES if environ.get(name)]
    kept: list[str] = []
    for path in sorted({_normal(one) for one in wanted} - {""}):
        # A parent that is mounted brings its children along; sorting puts it first.
        if not any(path == above or path.startswith(f"{above}/") for above in kept):
            kept.append(path)
    return tuple(walls.Bind(os.path.realpath(path), path) for path in kept)


def _normal(path: str) -> str:
    if not path.startswith("/") or path.startswith("/usr/") or not os.path.exists(path):
        return ""
    normal = posixpath.normpath(path)
    return "" if normal == "/" or normal.startswith("//") else normal


def _secrets(options: Iterable[tuple[str, str]], values: Iterable[str]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in options:
        if _SECRET.fullmatch(name):
            found.update({value, urllib.parse.quote(value, safe="")})
        if name.endswith((":_auth", ":_password")):
            # Base64 of `user:password`, or of the password alone.
            plain = _decoded(value)
            found.update({plain, plain.partition(":")[2]})
    for value in (*(value for _, value in options), *values):
        for match in _USERINFO.finditer(value):
            user, _, password = match[1].partition(":")
            # A token is often the user name with no password beside it.
            found.update({match[1], password, urllib.parse.unquote(password), "" if password else user})
    return tuple(sorted((one for one in found if len(one) >= _SHORTEST_SECRET), key=len, reverse=True))


def _decoded(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("utf-8")
    except ValueError:
        return ""


def _hosts(options: Iterable[tuple[str, str]], env: Mapping[str, str]) -> tuple[str, ...]:
    words = [value for name, value in options if name.endswith(("registry", "proxy")) and name != "noproxy"]
    words += [value for name, value in env.items() if name.lower() in ("http_proxy", "https_proxy", "proxy")]
    return tuple(sorted(reach.entries(words)))
