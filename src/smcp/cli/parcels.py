"""What `smcp deploy` sends: a source or an archive, a manifest and secrets, made from the command line."""

import pathlib
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
import msgspec

from smcp.cli import client, failures, output, pack, session
from smcp.deploy import bundle, clientconfig
from smcp.kernel import errors

_CHUNK: Final = 1_048_576


class Parcel(msgspec.Struct, kw_only=True):
    """One deployment to order."""

    label: str
    name: str | None = None
    source: str = ""
    """Empty for a folder or a bundle: it is what the platform calls the upload."""
    chosen: pack.Chosen | None = None
    bundle: pathlib.Path | None = None
    manifest: str | None = None
    secrets: dict[str, str] = {}
    needs: tuple[str, ...] = ()
    """Secrets that have no value here; they may be set already."""

    def __repr__(self) -> str:
        return f"Parcel({self.label!r})"

    def shown(self) -> client.Json:
        """What would be sent, without the values of secrets."""
        made: client.Json = {"label": self.label, "name": self.name, "source": self.source, "manifest": self.manifest}
        if self.chosen is not None:
            made |= {"files": list(self.chosen.files), "bytes": self.chosen.bytes, "notices": self.chosen.left_out}
        if self.bundle is not None:
            made |= {"bundle": str(self.bundle), "bytes": self.bundle.stat().st_size}
        return made | {"secrets": sorted(self.secrets), "needs": list(self.needs)}


def package(source: str, name: str | None, manifest: str | None) -> Parcel:
    """A package of an index."""
    return Parcel(label=source, source=source, name=name, manifest=manifest)


def folder(root: pathlib.Path, name: str | None, manifest: str | None, include: Sequence[str]) -> Parcel:
    """A folder of this machine."""
    chosen = pack.choose(root, include)
    text = manifest if manifest is not None else pack.manifest(root)
    worker = pack.worker(root, text)
    if worker is None:
        return Parcel(label=str(root), name=name or pack.name(root, text), chosen=chosen, manifest=text)
    chosen = chosen._replace(left_out=(*chosen.left_out, *worker.notes))
    return Parcel(label=str(root), name=name or pack.name(root, text, worker.name), chosen=chosen, manifest=text)


def from_bundle(
    path: pathlib.Path, name: str | None, manifest: str | None, given: Mapping[str, list[str]], kept: Mapping[str, Any]
) -> Parcel:
    """A bundle. `given` are options from the command line, `kept` those from a file, which may be sensitive."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(bundle.MANIFEST) as file:
            found = bundle.parse(file.read(bundle.MAX_BYTES + 1).removeprefix(b"\xef\xbb\xbf"))
    except (OSError, zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError) as error:
        raise _usage(f"{path} is no MCP bundle: a zip archive with a {bundle.MANIFEST}.") from error
    except errors.SmcpError as error:
        raise _usage(error.public) from error
    for key in given:
        if key in found.user_config and found.user_config[key].sensitive:
            raise failures.Failure(
                "usage",
                f"The option '{key}' is a secret, and the command line is no place for one: every user of this machine"
                " can see it there. Nothing was sent.",
                hint="Put it into a file ('api_key = \"…\"') and name that with --config-from.",
                exit_code=failures.Exit.USAGE,
            )
    values: dict[str, str | list[str]] = {**_plain(kept), **given}
    plain: dict[str, str | list[str]] = {
        key: one for key, one in values.items() if key not in found.user_config or not found.user_config[key].sensitive
    }
    try:
        how = bundle.start(found, plain)
        secrets = bundle.secret_values(found, values)
    except errors.SmcpError as error:
        raise _usage(error.public) from error
    text = (manifest or "") + _config(plain) if plain else manifest
    return Parcel(
        label=f"{found.name} {found.version} ({path.name})",
        name=name or clientconfig.server_name(found.name.rpartition("/")[2]),
        bundle=path,
        manifest=text,
        secrets=secrets,
        needs=tuple(one for one in how.secrets if one not in secrets),
    )


def from_entry(found: clientconfig.Translation, env: Mapping[str, str]) -> Parcel:
    """An entry of a client's configuration; `env` are values for variables that it only refers to."""
    if found.remote:
        return _from_remote_entry(found, env)
    plain = {name: env[name] for name in found.needs if name in env}
    left = [name for name in found.needs if name not in env]
    secret = tuple(name for name in left if clientconfig.is_secret(name, ""))
    missing = [name for name in left if name not in secret]
    if missing:
        raise failures.Failure(
            "usage",
            f"{found.entry}: the file has no value for {', '.join(missing)}, only a reference, which is not followed.",
            hint=f"Give it one: --env {missing[0]}=…",
            exit_code=failures.Exit.USAGE,
        )
    text = found.manifest(plain) or None
    if not found.folder:
        return Parcel(
            label=f"{found.entry} ({found.source})",
            name=found.server,
            source=found.source,
            manifest=text,
            secrets=found.secrets,
            needs=secret,
        )
    root = pathlib.Path(found.folder)
    parcel = folder(root, found.server, text or "", ())
    if parcel.chosen is not None and (root / pack.MANIFEST).is_file():
        told = f"Its {pack.MANIFEST} is not taken: the client's file says how it is started."
        parcel.chosen = parcel.chosen._replace(left_out=(*parcel.chosen.left_out, told))
    parcel.label = f"{found.entry} ({found.folder})"
    parcel.secrets, parcel.needs = found.secrets, secret
    return parcel


def _from_remote_entry(found: clientconfig.Translation, env: Mapping[str, str]) -> Parcel:
    for name in found.needs:
        if name in env:
            raise failures.Failure(
                "usage",
                f"{found.entry}: {name} is a header's value, and the command line is no place for one: every user of"
                " this machine can see it there. Nothing was sent.",
                hint="Leave --env out: you are asked for it, or set it before with 'smcp secret set'.",
                exit_code=failures.Exit.USAGE,
            )
    return Parcel(
        label=f"{found.entry} ({found.source})",
        name=found.server,
        source=found.source,
        manifest=found.manifest(),
        secrets=found.secrets,
        needs=found.needs,
    )


def read_values(path: pathlib.Path | None) -> dict[str, Any]:
    """Options from a TOML file."""
    if path is None:
        return {}
    try:
        return tomllib.loads(pack.read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # Not what it says: that may be a line of the file, and a secret.
        raise _usage(f"{path} is not valid TOML.") from error


def pairs(words: Sequence[str], option: str) -> dict[str, list[str]]:
    """KEY=VALUE words; a key may come several times."""
    made: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise _usage(f"{option} takes KEY=VALUE.")
        made.setdefault(key, []).append(value)
    return made


# --- sending ---


def prepare(cli: session.Session, api: client.Client, owner: str, parcel: Parcel) -> client.Json:
    """Send what comes before the order, and return the order's body."""
    _set_secrets(cli, api, owner, parcel)
    body: client.Json = {"source": parcel.source or _upload(cli, api, owner, parcel)}
    if parcel.name:
        body["name"] = parcel.name
    if parcel.manifest is not None:
        body["manifest"] = parcel.manifest
    return body


def _set_secrets(cli: session.Session, api: client.Client, owner: str, parcel: Parcel) -> None:
    if not parcel.secrets and not parcel.needs:
        return
    where = ("tenants", owner, "servers", parcel.name or "", "secrets")
    values = dict(parcel.secrets)
    if parcel.needs:
        known = {item.get("name") for item in api.items(client.path(*where))}
        for name in parcel.needs:
            if name not in known:
                values[name] = _asked(cli, f"{owner}/{parcel.name}", name)
    for name, value in values.items():
        api.put(client.path(*where, name), {"value": value, "kind": "env"})
        cli.out.note(f"Secret {name} is set.")


def _asked(cli: session.Session, target: str, name: str) -> str:
    if cli.out.as_json or not sys.stdin.isatty():
        raise failures.Failure(
            "usage",
            f"{name} needs a value, and nobody can be asked here. Nothing was deployed.",
            hint=f"Set it first: smcp secret set {target} {name} < file",
            exit_code=failures.Exit.USAGE,
        )
    text: str = click.prompt(output.safe(f"Value of {name} (it is not shown)"), hide_input=True, err=True)
    return text


def _upload(cli: session.Session, api: client.Client, owner: str, parcel: Parcel) -> str:
    where = client.path("tenants", owner, "uploads")
    if parcel.bundle is not None:
        cli.out.note(f"Sending {parcel.bundle.name}, {parcel.bundle.stat().st_size / 1e6:.1f} MB.")
        with parcel.bundle.open("rb") as file:
            return str(api.send(where, iter(lambda: file.read(_CHUNK), b"")).get("source"))
    assert parcel.chosen is not None
    for line in parcel.chosen.left_out:
        cli.out.note(line)
    with tempfile.TemporaryFile() as packed:
        pack.write(parcel.chosen, packed)
        size = packed.tell()
        cli.out.note(f"Sending {len(parcel.chosen.files)} files, {size / 1e6:.1f} MB packed.")
        packed.seek(0)
        return str(api.send(where, iter(lambda: packed.read(_CHUNK), b"")).get("source"))


def _plain(kept: Mapping[str, Any]) -> dict[str, str | list[str]]:
    made: dict[str, str | list[str]] = {}
    for key, value in kept.items():
        if isinstance(value, list):
            made[key] = [_text(key, one) for one in value]  # pyright: ignore[reportUnknownVariableType] - TOML
        else:
            made[key] = _text(key, value)
    return made


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise _usage(f"The value of {key} is no text, number or list of them.")


def _config(values: Mapping[str, str | list[str]]) -> str:
    lines = ["", "[config]"]
    for key, value in values.items():
        shown = (
            clientconfig.toml(value)
            if isinstance(value, str)
            else f"[{', '.join(clientconfig.toml(one) for one in value)}]"
        )
        lines.append(f"{clientconfig.toml(key)} = {shown}")
    return "\n".join(lines) + "\n"


def _usage(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
