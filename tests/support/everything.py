"""The fixture server of tests/fixtures/everything, in its three builds: as a wheel to deploy, or run directly."""

import contextlib
import os
import pathlib
import subprocess
import sys
import tomllib
from collections.abc import Generator
from typing import Final, Literal

from mcp import StdioServerParameters

from support import wheels

FOLDER: Final = pathlib.Path(__file__).parents[1] / "fixtures" / "everything"
NAME: Final = "smcp-fixture-everything"
MODULE: Final = "smcp_fixture_everything"

Build = Literal["dual", "legacy", "modern"]


def wheel(directory: pathlib.Path) -> pathlib.Path:
    """Build the fixture's wheel in `directory`, as its pyproject.toml describes it."""
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))["project"]
    return wheels.build_wheel(
        directory,
        project["name"],
        project["version"],
        {f"{MODULE}/{file.name}": file.read_text("utf-8") for file in sorted((FOLDER / MODULE).glob("*.py"))},
        project["scripts"],
        tuple(project["dependencies"]),
    )


def manifest(build: Build) -> str:
    """The manifest with which the wheel is deployed as `build`: each has a script of its own.

    Copies for sessions are started ahead, so that no client waits for one for long on a busy machine. Of the shared
    copies there is one: what the fixture's tools change is in its memory, and another's subscribers would not hear.
    """
    script = NAME if build == "dual" else f"{NAME}-{build}"
    return f'command = "{script}"\n[scale]\n{"min = 2" if build == "legacy" else "max = 1"}\n'


@contextlib.contextmanager
def over_http(key: str, build: Build = "dual") -> Generator[str]:
    """A build of the fixture without SMCP, over streamable HTTP and behind the bearer `key`: the endpoint's URL."""
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, "--http", "--era", build],
        cwd=FOLDER,
        env={**os.environ, "SMCP_FIXTURE_KEY": key},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            # The line comes when connections are accepted, and an empty one when the process ends before.
            url = process.stdout.readline().strip()
            assert url, "the fixture server did not start"
            yield url
        finally:
            process.terminate()


def over_stdio(build: Build = "dual") -> StdioServerParameters:
    """How a client starts a build of the fixture as its child."""
    return StdioServerParameters(command=sys.executable, args=["-m", MODULE, "--era", build], cwd=FOLDER)
