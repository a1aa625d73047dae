"""Small projects for tests: a Python and a Node.js MCP server as somebody would write them, with their locks."""

import functools
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from typing import Any, Final

from smcp.deploy import wheels
from support import node

_MCP: Final = "mcp==2.3.0"
_SDK: Final = "1.32.2"
_MAIN: Final = '''
import os
from importlib import metadata

from mcp.server.mcpserver import MCPServer

server = MCPServer("greeter")


@server.tool()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"{os.environ.get('WORD', 'Hello')}, {name}! {metadata.version('greeter')} {'API_KEY' in os.environ}"


def main() -> None:
    server.run()
'''
_INDEX: Final = """
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { z } from 'zod';

const server = new McpServer({ name: 'greeter', version: '1.0.0' });
server.registerTool('greet', { description: 'Greet somebody.', inputSchema: { name: z.string() } }, ({ name }) => ({
  content: [{ type: 'text', text: JSON.stringify({
    said: `${process.env.WORD ?? 'Hello'}, ${name}!`, args: process.argv.slice(2), key: process.env.API_KEY ?? null,
  }) }],
}));
await server.connect(new StdioServerTransport());
"""


@functools.cache
def python_lock() -> str:
    """A requirements.txt with hashes for package mcp and all that it needs, as the configured index has them now."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--quiet", "--dest", directory, _MCP]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        lock = wheels.lock(pathlib.Path(directory), 1 << 30)
    return "".join(f"{one.name}=={one.version} \\\n    --hash=sha256:{one.sha256}\n" for one in lock)


def python(root: pathlib.Path) -> pathlib.Path:
    """A Python project in `root`: `src` layout, a script, a lock, and things that must not be sent."""
    (root / "src/greeter").mkdir(parents=True)
    (root / "src/greeter/__init__.py").write_text("")
    (root / "src/greeter/main.py").write_text(_MAIN)
    (root / "pyproject.toml").write_text(
        '[project]\nname = "Greeter"\nversion = "1.2.3"\ndependencies = ["mcp"]\n'
        '[project.scripts]\ngreeter = "greeter.main:main"\n'
        # No backend of this name exists: nothing may try to run one.
        '[build-system]\nrequires = ["no-such-backend"]\nbuild-backend = "no_such_backend"\n'
    )
    (root / "requirements.txt").write_text(python_lock())
    (root / "smcp.toml").write_text('[env]\nWORD = "${HOME}"\n')
    (root / ".env").write_text("API_KEY=never-sent\n")
    (root / "__pycache__").mkdir()
    (root / "__pycache__/x.pyc").write_bytes(b"")
    (root / "link").symlink_to("/etc/passwd")
    return root


@functools.cache
def _npm_lock() -> str:
    with tempfile.TemporaryDirectory() as directory:
        _node_project(pathlib.Path(directory))
        _npm(pathlib.Path(directory), "install", "--package-lock-only")
        return (pathlib.Path(directory) / "package-lock.json").read_text()


def javascript(root: pathlib.Path) -> pathlib.Path:
    """A Node.js project in `root`, with its lock and an install script that must never run."""
    root.mkdir(parents=True, exist_ok=True)
    _node_project(root)
    (root / "package-lock.json").write_text(_npm_lock())
    (root / ".npmrc").write_text("registry=http://127.0.0.1:9/\n")
    return root


def _node_project(root: pathlib.Path) -> None:
    package = {
        "name": "greeter",
        "version": "1.0.0",
        "type": "module",
        "main": "index.js",
        "scripts": {"install": "exit 1", "prepare": "exit 1"},
        "dependencies": {"@modelcontextprotocol/sdk": _SDK, "zod": "^4"},
    }
    (root / "package.json").write_text(json.dumps(package))
    (root / "index.js").write_text(_INDEX)


def _npm(root: pathlib.Path, *arguments: str) -> None:
    npm = node.home() / "lib/node_modules/npm/bin/npm-cli.js"
    command = [node.program(), npm, *arguments, "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def bundle(target: pathlib.Path, scratch: pathlib.Path, **more: Any) -> pathlib.Path:
    """An .mcpb at `target`: the Node.js project with its packages. `more` are members of its manifest.json."""
    root = javascript(scratch)
    (root / ".npmrc").unlink()
    _npm(root, "ci", "--omit=dev")
    shutil.rmtree(root / "node_modules/.bin")
    manifest = {
        "manifest_version": "0.3",
        "name": "greeter-bundle",
        "version": "1.0.0",
        "description": "Greets.",
        "author": {"name": "Ada"},
        "server": {
            "type": "node",
            "entry_point": "index.js",
            "mcp_config": {
                "command": "node",
                "args": ["${__dirname}/index.js", "--at=${__dirname}", "${user_config.folders}", "${HOME}"],
                "env": {"WORD": "${user_config.word}", "API_KEY": "key ${user_config.api_key}"},
            },
        },
        "user_config": {
            "word": {"type": "string", "title": "Word", "required": True},
            "folders": {"type": "directory", "title": "Folders", "multiple": True, "default": ["${HOME}"]},
            "api_key": {"type": "string", "title": "Key", "sensitive": True, "required": True},
        },
        **more,
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(root))
    return target
