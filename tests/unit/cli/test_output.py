"""What reaches a person's terminal, and what reaches a script."""

import json
import subprocess
import sys

import click.testing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checks import commands
from smcp.cli import failures, main, output


@pytest.mark.requirement("cli:output:terminal")
@given(st.text(st.characters(codec="utf-8")))
def test_no_control_character_reaches_a_terminal(text: str) -> None:
    shown = output.safe(text)
    assert all(character in "\t\n" or character.isprintable() or ord(character) > 0x9F for character in shown)
    assert not any(character in shown for character in "\u202e\u2066\u200f")


@pytest.mark.requirement("cli:output:terminal")
def test_an_escape_sequence_is_shown_instead_of_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    out = output.Output(as_json=False)
    evil = "\x1b]0;owned\x07\x9b2J[bold red]x[/]\rdone"
    out.text(evil)
    out.table(("a", "b"), [(evil, 1)], empty="")
    out.fields([("name", evil)])
    out.failure(failures.Failure("x", evil, hint=evil))
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert not set("\x1b\x07\x9b\r") & set(text)
        assert "\\x1b]0;owned\\x07\\x9b2J[bold red]x[/]\\x0ddone" in text


@pytest.mark.requirement("cli:output:json")
@pytest.mark.parametrize("path", [context.command_path for context in commands.walk()])
def test_every_command_takes_json_and_answers_a_wrong_command_line_in_json(
    path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main.run([*path.split()[1:], "--json", "--no-such-option"])
    shown = capfd.readouterr()
    assert code == failures.Exit.USAGE
    assert shown.out == ""
    assert json.loads(shown.err)["error"]["code"] == "usage"


@pytest.mark.requirement("cli:output:json")
@pytest.mark.parametrize("path", [context.command_path for context in commands.walk()])
def test_every_command_explains_itself(path: str) -> None:
    shown = click.testing.CliRunner().invoke(main.smcp, [*path.split()[1:], "--help"])
    assert shown.exit_code == 0
    assert "--json" in shown.output


@pytest.mark.requirement("cli:output:json")
def test_the_version_is_told_to_people_and_scripts(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["version"]) == 0
    assert capfd.readouterr().out.startswith("smcp ")
    assert main.run(["version", "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)) == {"smcp", "python"}


@pytest.mark.requirement("cli:errors:next-step")
def test_a_wrong_target_is_explained(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["tools", "acme"]) == failures.Exit.USAGE
    assert "is not TENANT/SERVER, for example acme/time" in capfd.readouterr().err


@pytest.mark.requirement("cli:start:quick")
def test_the_command_line_starts_without_the_platforms_libraries() -> None:
    code = (
        "import sys; from smcp.cli import main; assert main.run(['version']) == 0;"
        "heavy = {'httpx2', 'rich', 'asyncio', 'starlette', 'uvicorn', 'msgspec', 'cryptography', 'smcp.app'};"
        "found = heavy & set(sys.modules); assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.requirement("cli:completion:scripts")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["completion", shell]) == 0
    assert "_SMCP_COMPLETE" in capfd.readouterr().out


@pytest.mark.requirement("cli:destructive:asks")
def test_every_destructive_command_has_yes_and_dry_run() -> None:
    with_both = {
        context.command_path
        for context in commands.walk()
        if {"yes", "dry_run"} <= {parameter.name for parameter in context.command.params}
    }
    assert with_both == {
        "smcp reset",
        "smcp key revoke",
        "smcp kv clear",
        "smcp kv delete",
        "smcp client revoke",
        "smcp user disable",
        "smcp user sign-out",
        "smcp role delete",
        "smcp object delete",
        "smcp object delete-bucket",
        "smcp secret delete",
        "smcp server delete",
        "smcp tenant rotate-signing-key",
        "smcp volume delete",
        "smcp volume restore",
    }
