"""Mistakes of the kind that fuzzing is for, made on purpose: each of them is found."""

import json
import sys
from typing import Any

import pytest

from fuzz import __main__ as command
from fuzz import engine, targets
from smcp.kernel import jsonrpc
from smcp.protocol import headers, sse
from smcp.protocol.validate import quick, schemas
from smcp.runtime import calls
from smcp.upstream import connection

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - a fixture
    # What is found here is no finding.
    monkeypatch.setattr(engine, "KEPT", engine.KEPT / "planted")


class _Careless(sse.Parser):
    def feed(self, data: bytes) -> list[sse.Event]:
        return super().feed(data.replace(b"\r", b"\n"))


class _Short(connection.Answer):
    def feed(self, part: bytes) -> bool:
        return super().feed(part[:1000])


def _loose(data: bytes, *, max_depth: int) -> Any:
    return json.loads(data)


def _undecoded(value: str) -> str | None:
    return value


def _cut(data: bytes, *, max_depth: int, most: int) -> list[bytes]:
    return data.strip()[1:-1].split(b",")


def _right(method: str, params: bytes, *, modern: bool) -> bool:
    return method == "tools/call"


def _any(raw: bytes | None) -> int:
    return int(bytes(raw or b"0"))


@pytest.mark.requirement("protocol:fuzz:findings")
@pytest.mark.parametrize(
    ("name", "module", "member", "mistake"),
    [
        pytest.param("json", jsonrpc, "strict_json", _loose, id="duplicate keys are read"),
        pytest.param("envelope", jsonrpc, "strict_json", _loose, id="errors of the json module get out"),
        pytest.param("sse", sse, "Parser", _Careless, id="a line end of two bytes counts twice"),
        pytest.param("header-codec", headers, "decode", _undecoded, id="a coded value is taken as it is"),
        pytest.param("batches", jsonrpc, "split", _cut, id="an array is cut at its commas"),
        pytest.param("validate", quick, "request", _right, id="a quick shape takes too much"),
        pytest.param("schemas", schemas, "_MASK", None, id="a value stands in an error"),
        pytest.param("answers", connection, "Answer", _Short, id="a piece of an answer is cut"),
        pytest.param("calls", calls, "_number", _any, id="a server's id is taken for a number"),
        pytest.param("lines", calls, "_number", _any, id="a server's id is taken for a number, in a line"),
    ],
)
def test_a_planted_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, module: object, member: str, mistake: object
) -> None:
    target = next(one for one in targets.ALL if one.name == name)
    monkeypatch.setattr(module, member, mistake)
    with pytest.raises(engine.Finding):
        engine.run(target, seed=engine.SEED, cases=20_000)


@pytest.mark.requirement("protocol:fuzz:findings")
def test_the_command_ends_with_one_where_something_is_found_and_tries_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jsonrpc, "strict_json", _loose)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--cases", "2000", "--target", "json", "--seed", "1"])
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "seed 1" in said
    assert "1 finding(s)" in said
    [kept] = sorted((engine.KEPT / "findings/json").iterdir())[:1]
    monkeypatch.setattr(sys, "argv", ["fuzz", "--replay", str(kept)])
    assert command.main() == 1
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", ["fuzz", "--replay", str(kept)])
    assert command.main() == 0


@pytest.mark.requirement("protocol:fuzz:findings")
def test_the_command_shares_its_cases_and_ends_with_nothing_where_nothing_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "guided", lambda: False)
    argv = ["fuzz", "--cases", "100", "--seed", "1", "--target", "json", "--target", "sse"]
    monkeypatch.setattr(sys, "argv", argv)
    assert command.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["json", "50"], ["sse", "50"], ["together", "100"]]
