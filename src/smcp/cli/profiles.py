"""Profiles: which platform, which tenant, as whom. The only file of the command line that holds a secret.

A profile holds an API key, or the tokens of a login (`smcp login`): never both.

`profiles.toml` lives in $SMCP_CONFIG, else $XDG_CONFIG_HOME/smcp, else ~/.config/smcp. The file has mode 0600, its
directory 0700; a file that others may read or write is refused rather than repaired, because its key
may have been read already. Writes are atomic (a new file, synced, then renamed over the old one) and exclusive.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import stat
import tempfile
import tomllib
from collections.abc import Callable, Generator, Mapping
from typing import Final, NamedTuple, cast

from smcp.cli import failures

DEFAULT: Final = "default"
_NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*", re.ASCII)
_KEY = re.compile(r"[\x21-\x7e]{1,512}", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)
_WITH_KEY = frozenset({"url", "tenant", "key"})
_WITH_TOKENS = frozenset({"url", "tenant", "access", "refresh"})


class Tokens(NamedTuple):
    """What a login brought (RFC 6749, 5.1)."""

    access: str
    refresh: str
    expires: int
    """When `access` ends, in epoch seconds of this machine's clock."""

    def __repr__(self) -> str:
        return f"Tokens(hidden, expires={self.expires})"


class Profile(NamedTuple):
    """Where to go and as whom: with `key`, or with `tokens`."""

    url: str
    tenant: str
    key: str = ""
    tokens: Tokens | None = None

    def __repr__(self) -> str:
        return f"Profile(url={self.url!r}, tenant={self.tenant!r}, {'key' if self.key else 'tokens'}=hidden)"


class Chosen(NamedTuple):
    """The profile for one command, and where it came from in words."""

    url: str
    tenant: str
    key: str
    source: str
    tokens: Tokens | None = None
    name: str = ""
    """The profile's name; empty for a key of the environment, which is in no file."""

    def __repr__(self) -> str:
        return f"Chosen(url={self.url!r}, tenant={self.tenant!r}, hidden, source={self.source!r})"


def directory(environ: Mapping[str, str]) -> pathlib.Path:
    """Where the profiles are, by the environment."""
    if named := environ.get("SMCP_CONFIG"):
        return pathlib.Path(named).expanduser()
    base = environ.get("XDG_CONFIG_HOME", "")
    # XDG Base Directory Specification 0.8: a relative path is invalid and is ignored.
    root = (
        pathlib.Path(base)
        if base.startswith("/")
        else pathlib.Path(environ.get("HOME") or "~").expanduser() / ".config"
    )
    return root / "smcp"


class Profiles:
    """The profiles file."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.file = folder / "profiles.toml"

    def load(self) -> dict[str, Profile]:
        """All profiles by name; none without a file. Raises `Failure` for a file that can't be trusted or read."""
        try:
            with self.file.open("rb") as stream:
                self._trust(os.fstat(stream.fileno()))
                tree = tomllib.load(stream)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._broken(f"can't be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise self._broken(f"is not valid TOML: {error}") from error
        return {name: self._profile(name, value) for name, value in tree.items()}

    def save(self, name: str, profile: Profile) -> None:
        """Add or replace one profile."""
        check_name(name)
        self._change(lambda all_profiles: all_profiles.update({name: profile}))

    def rename(self, old: str, new: str) -> None:
        """Give a profile another name."""
        check_name(new)
        self._change(lambda all_profiles: all_profiles.update({new: all_profiles.pop(old)}))

    def remove(self, name: str) -> None:
        """Forget one profile; nothing happens when it is not there."""
        self._change(lambda all_profiles: all_profiles.pop(name, None))

    def renew(self, chosen: Chosen, spent: Tokens, exchange: Callable[[Tokens], Tokens]) -> Tokens:
        """Put what `exchange` gets for `spent` into the profile that was `chosen`, and return it.

        Nobody else writes meanwhile. Where another command was faster, its tokens are returned and `exchange` is not
        called: a refresh token is used once (OAuth 2.1, 4.3.1). A profile that has gone, or is another platform's or
        tenant's by now, raises `Failure`: whoever asks goes to the place that was chosen, and what another place gave
        is not for its eyes. What `exchange` raises leaves the file as it was.
        """
        with self._exclusive():
            current = self.load()
            found = current.get(chosen.name)
            if found is None or found.tokens is None:
                raise self._lost(chosen, "is logged out", "Log in again: smcp login")
            if (found.url, found.tenant) != (chosen.url, chosen.tenant):
                raise self._lost(
                    chosen, f"is for tenant {found.tenant} at {found.url} by now", "Give the command again."
                )
            if found.tokens != spent:
                return found.tokens
            fresh = exchange(spent)
            current[chosen.name] = found._replace(tokens=fresh)
            self._write(current)
            return fresh

    def _lost(self, chosen: Chosen, why: str, hint: str) -> failures.Failure:
        return failures.Failure(
            "logged_out",
            f"Profile '{chosen.name}' of {self.file} {why}.",
            hint=hint,
            exit_code=failures.Exit.REFUSED,
        )

    def _change(self, change: Callable[[dict[str, Profile]], object]) -> None:
        with self._exclusive():
            current = self.load()
            change(current)
            self._write(current)

    @contextlib.contextmanager
    def _exclusive(self) -> Generator[None]:
        """Hold the directory, so that two commands that save at once lose nothing."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise failures.Failure(
                "profiles",
                f"The directory {self.folder} can't be used: {error.strerror}.",
                hint="SMCP_CONFIG names another one.",
            ) from error
        try:
            mode = os.fstat(handle).st_mode
            if mode & 0o022:
                raise failures.Failure(
                    "profiles",
                    f"Others may write to {self.folder} (mode {stat.S_IMODE(mode):04o}); no secret is put there.",
                    hint=f"Run: chmod 700 {self.folder}",
                )
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _write(self, profiles: Mapping[str, Profile]) -> None:
        target = self.file.resolve()  # a linked dot file stays linked
        handle, temporary = tempfile.mkstemp(prefix=".profiles-", dir=target.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(render(profiles))
                stream.flush()
                os.fsync(stream.fileno())
            pathlib.Path(temporary).replace(target)
        except BaseException:
            pathlib.Path(temporary).unlink(missing_ok=True)
            raise
        parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)

    def _trust(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._broken("is not a regular file")
        if status.st_uid not in (os.geteuid(), 0):
            raise self._broken("belongs to another user, so its content can't be trusted")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise failures.Failure(
                "profiles",
                f"Others may read or write {self.file} (mode {stat.S_IMODE(status.st_mode):04o}); it holds secrets.",
                hint=f"Run: chmod 600 {self.file}  (and make new keys, and log in again, if somebody may have read it)",
            )

    def _profile(self, name: str, value: object) -> Profile:
        if not isinstance(value, dict):
            raise self._broken(f"has '{name}' outside of a [profile]")
        fields = cast("dict[str, object]", value)
        texts = {key: text for key, text in fields.items() if isinstance(text, str)}
        if texts.keys() == _WITH_KEY and len(fields) == len(texts):
            return Profile(texts["url"], texts["tenant"], texts["key"])
        expires = fields.get("expires")
        if texts.keys() == _WITH_TOKENS and fields.keys() == {*texts, "expires"} and type(expires) is int:
            return Profile(texts["url"], texts["tenant"], "", Tokens(texts["access"], texts["refresh"], expires))
        raise self._broken(
            f"needs in [{name}] exactly the texts url, tenant and key, or url, tenant, access and refresh with expires"
        )

    def _broken(self, why: str) -> failures.Failure:
        return failures.Failure("profiles", f"The profiles file {self.file} {why}.")


def check_name(name: str) -> None:
    """Raise `Failure` unless `name` can be a profile's."""
    if len(name) > 64 or _NAME.fullmatch(name) is None:
        raise failures.Failure(
            "profiles",
            f"'{name[:80]}' can't name a profile: lower-case letters and digits, with single '-', '_' or '.' between.",
            exit_code=failures.Exit.USAGE,
        )


def render(profiles: Mapping[str, Profile]) -> str:
    """The file's text. TOML basic strings are JSON strings here, since all texts are printable ASCII."""
    lines = ["# Profiles of the smcp command. Keep it to yourself: it holds keys and logins.\n"]
    for name, profile in sorted(profiles.items()):
        lines.append(f"\n[{json.dumps(name)}]\n")
        lines.extend(f"{field} = {json.dumps(value)}\n" for field, value in _fields(profile).items())
    return "".join(lines)


def _fields(profile: Profile) -> dict[str, str | int]:
    place: dict[str, str | int] = {"url": profile.url, "tenant": profile.tenant}
    tokens = profile.tokens
    if tokens is None:
        if _KEY.fullmatch(profile.key) is None:
            raise failures.Failure("profiles", "A key is printable ASCII without spaces; this one is not.")
        return {**place, "key": profile.key}
    if not (_TOKEN.fullmatch(tokens.access) and _TOKEN.fullmatch(tokens.refresh)):
        raise failures.Failure("profiles", "A token is printable ASCII without spaces; this one is not.")
    return {**place, "access": tokens.access, "refresh": tokens.refresh, "expires": tokens.expires}


def choose(
    profiles: Profiles, environ: Mapping[str, str], *, named: str | None = None, tenant: str | None = None
) -> Chosen:
    """The profile for one command. The most deliberate choice wins.

    `--profile`, then SMCP_URL with SMCP_API_KEY, then SMCP_PROFILE, then the profile whose tenant is the target's (the
    one of the same name first), then the only one there is, or `default`.
    """
    url, key = environ.get("SMCP_URL", ""), environ.get("SMCP_API_KEY", "")
    if not named and (url or key):
        if not (url and key):
            # A profile's key must not travel to an address that it was not made for.
            raise failures.Failure(
                "profiles",
                f"{'SMCP_API_KEY' if url else 'SMCP_URL'} is missing: SMCP_URL and SMCP_API_KEY work together only.",
                hint="Set both, or neither and use a profile.",
                exit_code=failures.Exit.USAGE,
            )
        return Chosen(url, key_tenant(key), key, "SMCP_URL and SMCP_API_KEY")
    everything = profiles.load()
    only = next(iter(everything)) if len(everything) == 1 else DEFAULT
    wanted = named or environ.get("SMCP_PROFILE") or _of_tenant(everything, tenant) or only
    found = everything.get(wanted)
    if found is None:
        raise _missing(profiles, everything, wanted)
    source = f"profile '{wanted}' of {profiles.file}"
    return Chosen(found.url, found.tenant, found.key, source, found.tokens, wanted)


def key_tenant(key: str) -> str:
    """The tenant that an API key names (`smcp_<tenant>_…`), or nothing."""
    parts = key.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "smcp" else ""


def _of_tenant(everything: Mapping[str, Profile], tenant: str | None) -> str | None:
    names = sorted(name for name, profile in everything.items() if tenant and profile.tenant == tenant)
    return tenant if tenant in names else next(iter(names), None)


def _missing(profiles: Profiles, everything: Mapping[str, Profile], wanted: str) -> failures.Failure:
    if not everything:
        return failures.Failure(
            "no_profile",
            f"There is no profile yet ({profiles.file}).",
            hint="'smcp up' starts a platform and makes one. For another platform set SMCP_URL and SMCP_API_KEY.",
            exit_code=failures.Exit.USAGE,
        )
    return failures.Failure(
        "no_profile",
        f"There is no profile '{wanted}' in {profiles.file}; there are: {', '.join(sorted(everything))}.",
        hint="Choose one with --profile or SMCP_PROFILE.",
        exit_code=failures.Exit.USAGE,
    )
