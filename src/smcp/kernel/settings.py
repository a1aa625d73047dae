"""Settings: small frozen groups, read once at start from a TOML file and the environment.

Precedence: environment over file over default. `SMCP_<GROUP>_<FIELD>` names a field (`SMCP_GATEWAY_PORT`);
lists are written as comma-separated text there. An unknown key, in the file or in the environment, stops the
start: a misspelt setting must not be a silent default. No setting can switch a security stage off.
docs/reference/settings.md is compared with this file by a test.
"""

import os
import pathlib
import tomllib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.kernel import errors

_Text = Annotated[str, Meta(max_length=4096)]
_Port = Annotated[int, Meta(ge=0, le=65535)]
_Seconds = Annotated[float, Meta(gt=0, le=7 * 86400)]
_Bytes = Annotated[int, Meta(ge=1)]
_Count = Annotated[int, Meta(ge=1)]

# Read by the command line, not by the platform.
CLIENT_VARIABLES: Final = frozenset({"SMCP_CONFIG", "SMCP_PROFILE", "SMCP_URL", "SMCP_API_KEY", "SMCP_CA_FILE"})


class _Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A group of settings."""


def _d(text: str) -> Meta:
    return Meta(description=text)


class Platform(_Group, frozen=True):
    """The installation as a whole."""

    data_dir: Annotated[
        _Text,
        _d("Where everything is kept. Empty: /var/lib/smcp as root, else $XDG_STATE_HOME/smcp."),
    ] = ""
    root_key_file: Annotated[
        _Text, _d("File of the root key (mode 0600, made at first start). Empty: keys/root.key in data_dir.")
    ] = ""

    def directory(self) -> pathlib.Path:
        """`data_dir`, with its default for this user filled in."""
        if self.data_dir:
            return pathlib.Path(self.data_dir)
        if os.geteuid() == 0:
            return pathlib.Path("/var/lib/smcp")
        # XDG Base Directory specification: state that is kept between restarts.
        state = os.environ.get("XDG_STATE_HOME") or pathlib.Path.home() / ".local" / "state"
        return pathlib.Path(state) / "smcp"

    def root_key(self) -> pathlib.Path:
        """`root_key_file`, with its default filled in."""
        return pathlib.Path(self.root_key_file) if self.root_key_file else self.directory() / "keys" / "root.key"


class Gateway(_Group, frozen=True):
    """The edge that MCP clients talk to."""

    host: Annotated[_Text, _d("Address to listen on.")] = "127.0.0.1"
    port: Annotated[_Port, _d("TCP port to listen on; 0 takes a free one.")] = 8080
    public_url: Annotated[
        _Text, _d("How clients reach the platform. Empty: by the certificate's first name, else by host and port.")
    ] = ""
    hosts: Annotated[
        tuple[str, ...],
        _d(
            "Extra values allowed in the Host header, with port where it is not the default. name=tenant makes what"
            " clients look for at the root of that origin this tenant's."
        ),
    ] = ()
    origins: Annotated[
        tuple[str, ...],
        _d("Extra browser origins allowed (scheme://host[:port]); the platform's own always is."),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        _d(
            "Networks (CIDR) of the reverse proxies in front. Forwarded and X-Forwarded-* count on connections from"
            " them only."
        ),
    ] = ()
    max_body_bytes: Annotated[_Bytes, _d("Largest request body, in bytes.")] = 1_048_576
    max_depth: Annotated[int, Meta(ge=4, le=200), _d("Deepest JSON nesting of a request body.")] = 64
    body_timeout_s: Annotated[_Seconds, _d("Time for a request body to arrive whole, in seconds.")] = 10.0
    call_timeout_s: Annotated[_Seconds, _d("Time for a hosted server to finish one request, in seconds.")] = 300.0
    heartbeat_s: Annotated[_Seconds, _d("Silence on an event stream before a comment is sent, in seconds.")] = 15.0
    session_idle_s: Annotated[_Seconds, _d("An MCP session ends after this long without a request.")] = 1800.0
    session_max_s: Annotated[_Seconds, _d("An MCP session ends this long after its start, in any case.")] = 86400.0


class Tls(_Group, frozen=True):
    """HTTPS without a proxy in front."""

    cert_file: Annotated[
        _Text, _d("The certificate in PEM, with those of its issuers behind it. Empty: the platform speaks plain HTTP.")
    ] = ""
    key_file: Annotated[
        _Text, _d("Its private key in PEM (mode 0600). Both files are watched, and used anew when they change.")
    ] = ""

    @property
    def on(self) -> bool:
        """Does the platform speak TLS itself?"""
        return bool(self.cert_file or self.key_file)


class Limits(_Group, frozen=True):
    """What one caller may take from the others: the platform's limits, and the plan `standard`."""

    platform_per_second: Annotated[_Count, _d("Requests in any second, over all callers.")] = 10_000
    tenant_per_minute: Annotated[_Count, _d("Requests of one tenant in any minute.")] = 1000
    principal_per_minute: Annotated[_Count, _d("Requests of one principal (API key) in any minute.")] = 1000
    unauthenticated_per_minute: Annotated[
        _Count, _d("Requests in any minute from one address without a valid credential.")
    ] = 60
    tenant_concurrency: Annotated[_Count, _d("Requests of one tenant in flight at once.")] = 256
    principal_concurrency: Annotated[_Count, _d("Requests of one principal in flight at once.")] = 128
    principal_sessions: Annotated[
        _Count, _d("MCP sessions of one principal; at the cap the longest-idle one ends.")
    ] = 10
    tenant_instances: Annotated[_Count, _d("Running copies of hosted servers for one tenant.")] = 40
    standard: Annotated[
        tuple[str, ...],
        _d(
            "Further numbers of the plan `standard`, as name=number (docs/how-to/limits.md lists the names). They are"
            " looked at last. By default 100 requests a minute of one session, 4 copies started ahead, memory for all"
            " copies, 10 GiB of egress a day and 20 earlier deployments of a server."
        ),
    ] = ()


class Stores(_Group, frozen=True):
    """Where bytes live."""

    objects_url: Annotated[
        _Text, _d("Where objects are kept: empty for a directory in data_dir, else an S3-compatible URL.")
    ] = ""
    quota_bytes: Annotated[_Bytes, _d("Bytes one tenant may store, over all its keys and objects.")] = 2_147_483_648
    quota_keys: Annotated[_Count, _d("Keys one tenant may store.")] = 1_000_000
    audit_days: Annotated[_Count, _d("Days that audit entries, and usage by the hour, are kept.")] = 400
    log_days: Annotated[_Count, _d("Days that hosted servers' log lines are kept.")] = 14
    log_bytes: Annotated[
        int, Meta(ge=65536), _d("Bytes kept of one hosted server's log; the oldest lines go first.")
    ] = 8_388_608


class Sandbox(_Group, frozen=True):
    """The walls around a hosted server."""

    require: Annotated[
        tuple[str, ...],
        _d(
            "Layers without which the platform refuses to start. Namespaces: user, pid, net, ipc, uts, cgroup; others:"
            " nesting, tmp_size, proc, limits, seccomp, uid, cgroup_memory, cgroup_pids, cgroup_cpu, gvisor."
        ),
    ] = ("user", "pid", "net", "ipc", "uts", "seccomp")
    uid_first: Annotated[
        int,
        Meta(ge=1000, le=2**31),
        _d("Started as root: the first of the uids that are SMCP's (the platform's own; tenants' follow)."),
    ] = 1_900_000_000
    uid_count: Annotated[int, Meta(ge=32, le=2**24), _d("How many uids there are, one for each tenant.")] = 65_536
    memory_bytes: Annotated[_Bytes, _d("Memory of one hosted copy, its /tmp included, in bytes.")] = 1_073_741_824
    cpus: Annotated[float, Meta(ge=0.01, le=1024), _d("Cores' worth of processor time for one hosted copy.")] = 1.0
    tmp_bytes: Annotated[_Bytes, _d("Size of a hosted server's private /tmp, in bytes.")] = 67_108_864
    open_files: Annotated[_Count, _d("Open files of one hosted process.")] = 256
    processes: Annotated[_Count, _d("Processes and threads in one sandbox.")] = 256


class Egress(_Group, frozen=True):
    """What hosted servers may reach, beyond what their manifests ask for."""

    allowed_networks: Annotated[
        tuple[str, ...],
        _d(
            "Networks (CIDR) that are not public and that servers may reach all the same, if their manifest names a"
            " host there. A cloud's metadata address only counts when it is listed by itself (/32, /128)."
        ),
    ] = ()
    hosts: Annotated[
        tuple[str, ...],
        _d("Addresses of names (name=address) that the platform uses instead of asking the name system."),
    ] = ()
    connections: Annotated[_Count, _d("Connections that one sandbox may have open at once.")] = 64


class Runtime(_Group, frozen=True):
    """Running copies of hosted servers."""

    start_timeout_s: Annotated[_Seconds, _d("Time for a hosted server to answer its first message.")] = 30.0
    stop_grace_s: Annotated[_Seconds, _d("Time between asking a hosted server to end and killing it.")] = 3.0
    idle_stop_s: Annotated[_Seconds, _d("A shared copy without requests for this long is stopped.")] = 900.0
    max_message_bytes: Annotated[
        _Bytes,
        _d(
            "Largest single message from a hosted server. From 256 KiB on a message waits on disk, sealed; only results"
            " may be larger than 16 MiB."
        ),
    ] = 134_217_728
    tenant_buffer_bytes: Annotated[
        _Bytes,
        _d(
            "Bytes from one tenant's hosted servers that may wait in the platform's memory, over all its calls; eight"
            " times as much may wait on disk."
        ),
    ] = 134_217_728
    stream_buffer: Annotated[_Count, _d("Messages held for a slow reader of one stream before it is dropped.")] = 1024


class Volumes(_Group, frozen=True):
    """What hosted servers keep."""

    max_bytes: Annotated[int, Meta(ge=65536), _d("Largest volume that a manifest may ask for, in bytes.")] = 268_435_456
    tenant_bytes: Annotated[
        int, Meta(ge=65536), _d("Memory for the volumes of one tenant's running servers together, in bytes.")
    ] = 1_073_741_824
    snapshot_s: Annotated[_Seconds, _d("Time between snapshots of a volume that is in use, in seconds.")] = 60.0
    keep: Annotated[int, Meta(ge=2, le=1000), _d("Snapshots kept of each volume.")] = 10


class Deploy(_Group, frozen=True):
    """How packages become deployments."""

    wheel_dirs: Annotated[
        tuple[str, ...], _d("Directories of wheels searched beside the package index (air-gapped installs).")
    ] = ()
    package_hosts: Annotated[
        tuple[str, ...],
        _d(
            "Further hosts that fetching may reach, as host or host:port. Those that pip's and npm's own configuration"
            " names are allowed anyway; a private index that keeps its files elsewhere needs this."
        ),
    ] = ()
    timeout_s: Annotated[_Seconds, _d("Time for one deployment's fetch and build, each.")] = 600.0
    max_bytes: Annotated[_Bytes, _d("Largest artefact, unpacked.")] = 1_073_741_824
    max_upload_bytes: Annotated[_Bytes, _d("Largest folder or bundle that a tenant may send, packed, in bytes.")] = (
        268_435_456
    )


class Log(_Group, frozen=True):
    """What the platform says about itself."""

    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)$"), _d("Least severe level written.")] = "info"
    format: Annotated[str, Meta(pattern="^(json|console)$"), _d("One JSON object a line, or text for people.")] = (
        "console"
    )


class Settings(_Group, frozen=True):
    """All groups."""

    platform: Platform = Platform()
    gateway: Gateway = Gateway()
    tls: Tls = Tls()
    limits: Limits = Limits()
    stores: Stores = Stores()
    sandbox: Sandbox = Sandbox()
    egress: Egress = Egress()
    runtime: Runtime = Runtime()
    volumes: Volumes = Volumes()
    deploy: Deploy = Deploy()
    log: Log = Log()


def load(file: pathlib.Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from `file` (TOML; None for no file) and `environ` (default: the process's).

    Raises `errors.BadSettings`, which names the key, for anything unknown, of a wrong type or out of range.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            tree = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise errors.BadSettings(f"The settings file {file} can't be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise errors.BadSettings(f"The settings file {file} is not valid TOML: {error}.") from error
    for name, value in (os.environ if environ is None else environ).items():
        if name.startswith("SMCP_") and name not in CLIENT_VARIABLES:
            group, field, parsed = _from_environment(name, value)
            section = tree.setdefault(group, {})
            if not isinstance(section, dict):
                raise errors.BadSettings(f"Wrong setting: '{group}' is a group of settings, not a value.")
            section[field] = parsed
    try:
        return msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise errors.BadSettings(f"Wrong setting: {error}. docs/reference/settings.md lists them all.") from error


def groups() -> dict[str, type[_Group]]:
    """Each group's name and class, in the order of the documentation."""
    return typing.get_type_hints(Settings)


def _from_environment(name: str, value: str) -> tuple[str, str, Any]:
    group, _, field = name.removeprefix("SMCP_").lower().partition("_")
    known = groups().get(group)
    hint = typing.get_type_hints(known, include_extras=True).get(field) if known else None
    if hint is None:
        raise errors.BadSettings(
            f"The environment variable {name} is not a setting. docs/reference/settings.md lists them all."
        )
    if typing.get_origin(typing.get_args(hint)[0]) is tuple:
        return group, field, [part.strip() for part in value.split(",") if part.strip()]
    try:
        return group, field, msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as error:
        raise errors.BadSettings(f"{name}: {error}.") from error
