"""The cells that hosted servers run in: limits from the settings, the artefact at /app, the right interpreter."""

from typing import Final

from smcp.kernel import settings
from smcp.sandbox import interpreter, walls

APP: Final = "/app"
"""Where an artefact is, in the build and in the run: virtual environments hold absolute paths."""

PATH: Final = "/app/venv/bin:/usr/bin:/bin"


def hosted(
    limits: settings.Sandbox,
    python: interpreter.Interpreter,
    artefact: str,
    argv: tuple[str, ...],
    env: tuple[tuple[str, str], ...] = (),
) -> walls.Cell:
    """The cell of one hosted server: no network, nothing to see but /usr, its interpreter and its artefact.

    `env` is the tenant's, taken literally; it comes last, so it may replace PATH or HOME: that only concerns itself.
    """
    return walls.Cell(
        argv=argv,
        binds=(*python.binds, walls.Bind(artefact, APP)),
        env=(*base_env(python), *env),
        hidden=python.hidden,
        memory_bytes=limits.memory_bytes,
        tmp_bytes=limits.tmp_bytes,
        open_files=limits.open_files,
        processes=limits.processes,
    )


def base_env(python: interpreter.Interpreter) -> tuple[tuple[str, str], ...]:
    """The environment that every sandboxed Python program starts with."""
    return (
        ("PATH", PATH),
        ("HOME", "/tmp"),  # noqa: S108 - inside
        ("TMPDIR", "/tmp"),  # noqa: S108 - inside
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        *python.env,
    )
