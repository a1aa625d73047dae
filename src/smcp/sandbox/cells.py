"""The cells that hosted servers run in: limits from the settings, the artefact at /app, the right interpreter."""

from typing import Final

from smcp.kernel import settings
from smcp.sandbox import interpreter, node, tools, walls

APP: Final = "/app"
"""Where an artefact is, in the build and in the run: virtual environments hold absolute paths."""

_WORKER_FILES: Final = 4096
_WORKER_HEAP_MB: Final = 128
_WORKER_DATA: Final = 1024**3
"""V8 and its allocator map much more than they touch: with less, workerd does not start. The cgroup bounds memory."""

PATH: Final = "/app/venv/bin:/usr/bin:/bin"

Runs = interpreter.Interpreter | node.Node
"""What a server runs on."""


def hosted(
    limits: settings.Sandbox,
    runs: Runs,
    tenant: str,
    artefact: str,
    argv: tuple[str, ...],
    env: tuple[tuple[str, str], ...] = (),
    files: tuple[walls.File, ...] = (),
    volume: walls.Volume | None = None,
    egress: tuple[int, ...] = (),
) -> walls.Cell:
    """The cell of one hosted server: nothing to see but /usr, its interpreter, its artefact and its volume, and no
    network but the way to the egress guard, on the ports `egress`.

    `env` is the tenant's, taken literally; it comes last, so it may replace PATH or HOME: that only concerns itself.
    """
    return walls.Cell(
        argv=argv,
        binds=(*runs.binds, walls.Bind(artefact, APP)),
        env=(*base_env(runs), *_heap(runs, limits), *env),
        tenant=tenant,
        files=files,
        volume=volume,
        egress=egress,
        hidden=runs.hidden,
        memory_bytes=limits.memory_bytes,
        cpus=limits.cpus,
        tmp_bytes=limits.tmp_bytes,
        open_files=limits.open_files,
        processes=limits.processes,
    )


def worker(
    limits: settings.Sandbox,
    workerd: tools.Tool,
    tenant: str,
    binds: tuple[walls.Bind, ...],
    volume: walls.Volume | None = None,
) -> walls.Cell:
    """The cell of one workerd: nothing to see but /usr, workerd, its Workers' artefacts and its door; no network."""
    return walls.Cell(
        argv=(workerd.executable,),
        binds=(workerd.bind, *binds),
        env=(("PATH", "/usr/bin:/bin"), ("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("TZ", "UTC")),  # noqa: S108 - inside
        tenant=tenant,
        volume=volume,
        memory_bytes=limits.memory_bytes,
        data_bytes=max(limits.memory_bytes, _WORKER_DATA),
        cpus=limits.cpus,
        tmp_bytes=limits.tmp_bytes,
        # Each request of each of its Workers has a connection.
        open_files=max(limits.open_files, _WORKER_FILES),
        processes=limits.processes,
    )


def heap_mb(limits: settings.Sandbox) -> int:
    """The largest heap of one isolate, in MiB: as much as Cloudflare gives one, and half of what the cell may have."""
    return max(16, min(_WORKER_HEAP_MB, limits.memory_bytes // 2 // 1_048_576))


def base_env(runs: Runs) -> tuple[tuple[str, str], ...]:
    """The environment that every sandboxed program starts with."""
    common = (
        ("HOME", "/tmp"),  # noqa: S108 - inside
        ("TMPDIR", "/tmp"),  # noqa: S108 - inside
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
    )
    if isinstance(runs, node.Node):
        own = (("PATH", f"{runs.executable.rpartition('/')[0]}:/usr/bin:/bin"), *common, ("NODE_ENV", "production"))
        # Nothing of npm's runs in a server; a package that asks npm or its own updater gets no answer anyway.
        return (*own, ("NO_UPDATE_NOTIFIER", "1"), ("NPM_CONFIG_UPDATE_NOTIFIER", "false"), *runs.env)
    own = (("PATH", PATH), *common, ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1"))
    return (*own, *runs.env)


def _heap(runs: Runs, limits: settings.Sandbox) -> tuple[tuple[str, str], ...]:
    """V8 sizes its heap by the machine's memory, as it can't see the cell's: without this it would be killed
    before it thinks of collecting garbage. A quarter is left for buffers, code and stacks."""
    if not isinstance(runs, node.Node):
        return ()
    return (("NODE_OPTIONS", f"--max-old-space-size={max(limits.memory_bytes * 3 // 4 // 1_048_576, 16)}"),)
