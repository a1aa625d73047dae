"""`smcp`: the table of commands, and the one place where errors become exit codes.

A command's module is imported when the command is used, and a module imports what it needs when it
runs: `smcp version` must not wait for a server's imports.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from smcp.cli import failures, output
from smcp.kernel import errors

_COMMANDS: Final = {
    "up": "smcp.cli.up",
    "doctor": "smcp.cli.doctor",
    "reset": "smcp.cli.reset",
    "init": "smcp.cli.init",
    "dev": "smcp.cli.dev",
    "deploy": "smcp.cli.deploy",
    "login": "smcp.cli.login",
    "whoami": "smcp.cli.login",
    "logout": "smcp.cli.login",
    "tools": "smcp.cli.tools",
    "call": "smcp.cli.tools",
    "server": "smcp.cli.servers",
    "secret": "smcp.cli.secrets",
    "volume": "smcp.cli.volumes",
    "kv": "smcp.cli.kv",
    "object": "smcp.cli.objects",
    "limits": "smcp.cli.limits",
    "tenant": "smcp.cli.tenants",
    "key": "smcp.cli.keys",
    "user": "smcp.cli.users",
    "client": "smcp.cli.clients",
    "role": "smcp.cli.roles",
    "policy": "smcp.cli.policies",
    "usage": "smcp.cli.usage",
    "audit": "smcp.cli.audit",
    "version": "smcp.cli.about",
    "completion": "smcp.cli.about",
}
"""In the order of the help page: what a newcomer needs first."""


class _Commands(click.Group):
    """The commands of the table, imported one by one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: object = getattr(importlib.import_module(module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def smcp() -> None:
    """Host MCP servers for many tenants, each in a sandbox of its own.

    Start with 'smcp up'. Every command has --help and --json.
    """


def run(argv: Sequence[str]) -> int:
    """The exit code of `smcp <argv>`."""
    try:
        code: Any = smcp.main(args=list(argv), prog_name="smcp", standalone_mode=False)
    except failures.Failure as failure:
        return _report(failure, argv)
    except errors.SmcpError as error:  # wrong settings, a missing sandbox: from the platform's own rooms, in `up`
        return _report(failures.Failure(error.code, error.public), argv)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return failures.Exit.USAGE
    except click.ClickException as error:
        return _report(_usage(error), argv)
    except (click.Abort, KeyboardInterrupt):
        return _report(failures.Failure("interrupted", "Interrupted.", exit_code=failures.Exit.INTERRUPTED), argv)
    except BrokenPipeError:
        # `smcp … | head`: the reader has what it wanted. Python must not flush into the closed pipe at exit.
        sys.stdout = None
        return failures.Exit.OK
    return code if isinstance(code, int) else failures.Exit.OK


def main() -> None:
    """Entry point of the `smcp` script."""
    sys.exit(run(sys.argv[1:]))


def _usage(error: click.ClickException) -> failures.Failure:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"{error.ctx.get_usage()}\n'{error.ctx.command_path} --help' explains it."
    return failures.Failure("usage", error.format_message(), hint=hint, exit_code=failures.Exit.USAGE)


def _report(failure: failures.Failure, argv: Sequence[str]) -> int:
    # The option may not have been parsed when the command line itself is wrong, so it is looked for in the words.
    options = list(argv[: argv.index("--")]) if "--" in argv else list(argv)
    output.Output(as_json="--json" in options).failure(failure)
    return failure.exit_code
