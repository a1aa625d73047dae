"""The command line's reference, made from the commands themselves."""

import inspect
from collections.abc import Iterator

import click

from smcp.cli import main


def walk(command: click.Command = main.smcp, above: click.Context | None = None) -> Iterator[click.Context]:
    """Every command that does something, with its names above it, in the order of the help pages."""
    context = click.Context(command, info_name=command.name, parent=above)
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from walk(found, context)


def render() -> str:
    """All commands as Markdown."""
    return "\n\n".join(_section(context) for context in walk())


def _section(context: click.Context) -> str:
    command = context.command
    words = [context.command_path, *command.collect_usage_pieces(context)]
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines = [f"### `{context.command_path}`", "", f"`{' '.join(words)}`", "", text]
    options = [option for option in command.params if isinstance(option, click.Option)]
    if options:
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [_option(option, context) for option in options]
    return "\n".join(lines)


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None, f"{context.command_path}: {option.opts} has no help"
    names, meaning = (text.replace("|", "\\|") for text in record)
    return f"| `{names}` | {meaning} |".replace("  ", " ")
