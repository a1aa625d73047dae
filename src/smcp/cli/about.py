"""`smcp version` and `smcp completion`."""

import click

from smcp.cli import session


@click.command("version")
@session.local
def version_command(cli: session.Session) -> None:
    """Show the version of this command line."""
    import importlib.metadata
    import platform

    version = importlib.metadata.version("smcp")
    if cli.out.as_json:
        cli.out.json({"smcp": version, "python": platform.python_version()})
    else:
        cli.out.text(f"smcp {version} (Python {platform.python_version()})")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@session.local
def completion_command(cli: session.Session, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  smcp completion bash > ~/.local/share/bash-completion/completions/smcp
    zsh:   smcp completion zsh > a file named _smcp in a directory of $fpath
    fish:  smcp completion fish > ~/.config/fish/completions/smcp.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(click.get_current_context().find_root().command, {}, "smcp", "_SMCP_COMPLETE").source()
    if cli.out.as_json:
        cli.out.json({"shell": shell, "script": script})
    else:
        click.echo(script)
