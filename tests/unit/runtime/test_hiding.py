"""Secrets on their way into a copy, and taken out of its log."""

import asyncio
import base64
import json
import time
import urllib.parse
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import errors, ids
from smcp.runtime import calls, driver, hiding

_ACME, _TIME = ids.TenantId("acme"), ids.ServerName("time")
_PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\nqs8hJz0wBqs8hJz0wB==\n-----END PRIVATE KEY-----\n"


def _mask(**values: str | bytes) -> hiding.Mask:
    return hiding.Mask(
        [
            hiding.Given(name=name, value=value if isinstance(value, bytes) else value.encode())
            for name, value in values.items()
        ]
    )


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
@pytest.mark.parametrize(
    "value", ["hunter2!", 'with "quotes" and \\', "päßwörter", "a b/c?d=e&f", "$ENV `x` ${PATH}", "  padded value  "]
)
def test_a_value_is_hidden_however_a_log_writes_it(value: str) -> None:
    mask = _mask(API_KEY=value)
    for written in (
        value,
        value.strip(),
        json.dumps(value, ensure_ascii=False),
        repr(value),
        urllib.parse.quote(value, safe=""),
        base64.b64encode(value.encode()).decode(),
    ):
        shown = mask.line(f"using {written}, twice {written}")
        assert value.strip() not in shown
        assert written not in shown
        assert shown.count("[secret API_KEY]") == 2


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
def test_each_line_of_a_long_value_is_hidden_and_its_frame_is_not() -> None:
    mask = _mask(KEY=_PEM)
    shown = [mask.line(line) for line in _PEM.splitlines()]
    assert shown == ["-----BEGIN PRIVATE KEY-----", "[secret KEY]", "[secret KEY]", "-----END PRIVATE KEY-----"]
    assert mask.text(f"loaded {_PEM}") == "loaded [secret KEY]"
    assert mask.text(json.dumps({"key": _PEM})) == '{"key": "[secret KEY]"}'


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
def test_a_value_that_is_cut_at_the_end_of_a_line_is_hidden_as_far_as_it_is_there() -> None:
    mask = _mask(TOKEN="tok-0123456789abcdef")
    for length in range(6, 20):
        cut = "tok-0123456789abcdef"[:length]
        assert mask.line(f"[smcp] ignored a message: no JSON. token={cut}") == (
            "[smcp] ignored a message: no JSON. token=[secret TOKEN]"
        )
        assert mask.line("x" * 8192 + cut).endswith("x[secret TOKEN]")
    long = "".join(f"{number:05x}" for number in range(13_000))
    for start in (0, 7, 30_000):
        shown = _mask(LONG=long).line(long[start : start + 8192])
        assert len(shown.replace("[secret LONG]", "")) < 1000


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
def test_short_values_are_left_alone_and_the_longer_of_two_goes_first() -> None:
    mask = _mask(SHORT="12345", PART="abcdef", WHOLE="xx-abcdef-yy")
    assert mask.line("12345 xx-abcdef-yy abcdef") == "12345 [secret WHOLE] [secret PART]"


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
@given(value=st.binary(min_size=6, max_size=300), around=st.text(max_size=20))
def test_whatever_the_bytes_a_line_with_them_does_not_show_them(value: bytes, around: str) -> None:
    text = value.decode("utf-8", "replace").strip()
    if len(text.encode()) >= 6 and text.strip("\ufffd") and not text.startswith("-----"):
        shown = _mask(X=value).line(f"{around}|{text}|{around}")
        assert f"|{text}|" not in shown or text in "[secret X]"


@pytest.mark.requirement("deploy:secrets:hiding-is-bounded")
def test_a_flood_of_lines_that_are_dear_to_look_through_costs_little_and_shows_nothing() -> None:
    many = [hiding.Given(name=f"S{number}", value=b"a" * 900 + b"X%02da" % number) for number in range(32)]
    mask = hiding.Mask(many, hiding.Budget())
    line = "a" * 2400
    began, said = time.thread_time(), set[str]()
    lines = 0
    while time.thread_time() - began < 0.5:  # of this thread's own: others may have the processor meanwhile
        said.add(mask.line(line))
        lines += 1
    assert lines > 1000
    assert any("left out" in one for one in said)
    # What the platform says of a copy's life gets through all the same.
    assert mask.line("[smcp] ended after 3.0 s: idle") == "[smcp] ended after 3.0 s: idle"


class Inner(driver.Driver):
    """Keeps what it is asked to start; its copies say what the test says."""

    def __init__(self) -> None:
        self.started: list[driver.Spec] = []
        self.lines: list[driver.Lines] = []

    async def start(self, spec: driver.Spec, *, modern: bool, lines: driver.Lines) -> driver.Instance:
        self.started.append(spec)
        self.lines.append(lines)
        return Copy()

    async def close(self) -> None:
        self.started.clear()


class Copy(driver.Instance):
    """A copy."""

    def __init__(self) -> None:
        self.calls = calls.Calls(modern=True, write=lambda data: None, stray=lambda data, method: None, limit=4)

    @property
    def alive(self) -> bool:
        return True

    async def stop(self, reason: str) -> None:
        await asyncio.sleep(0)


def _spec(**env: str) -> driver.Spec:
    return driver.Spec(
        tenant=_ACME, server=_TIME, deployment="dep-1", artefact="", argv=("${PATH}",), env=tuple(env.items())
    )


def _giving(*given: hiding.Given) -> hiding.Find:
    async def find(spec: driver.Spec) -> Sequence[hiding.Given]:
        return given

    return find


@pytest.mark.requirement("deploy:secrets:given")
async def test_a_copy_gets_variables_and_files_and_its_lines_lose_their_values() -> None:
    inner = Inner()
    lines: list[str] = []
    hidden = hiding.Hiding(
        inner,
        _giving(
            hiding.Given(name="API_KEY", value=b"${PATH} {{env}} $ENV `id`"),
            hiding.Given(name="CERT", value=b"\xff\0certificate", file=True),
        ),
    )
    copy = await hidden.start(_spec(A="1", API_KEY="from the manifest"), modern=True, lines=lines.append)
    [spec] = inner.started
    assert dict(spec.env) == {"A": "1", "API_KEY": "${PATH} {{env}} $ENV `id`"}
    assert len(spec.env) == 2
    [file] = spec.files
    assert (file.path, file.content, file.mode) == ("/run/secrets/CERT", b"\xff\0certificate", 0o400)
    assert spec.argv == ("${PATH}",)
    assert "certificate" not in repr((spec, file))
    inner.lines[0]("I use ${PATH} {{env}} $ENV `id`")
    assert lines == ["I use [secret API_KEY]"]
    assert copy.hide("why ${PATH} {{env}} $ENV `id`?") == "why [secret API_KEY]?"


@pytest.mark.requirement("deploy:secrets:given")
async def test_without_secrets_nothing_is_added_and_lines_pass() -> None:
    inner, lines = Inner(), list[str]()
    spec = _spec(A="1")
    copy = await hiding.Hiding(inner, _giving()).start(spec, modern=True, lines=lines.append)
    assert inner.started == [spec]
    inner.lines[0]("a line")
    assert (lines, copy.hide("a text")) == (["a line"], "a text")


@pytest.mark.requirement("deploy:secrets:required")
async def test_what_is_missing_keeps_a_copy_from_starting() -> None:
    async def find(spec: driver.Spec) -> Sequence[hiding.Given]:
        raise errors.SecretMissing("API_KEY is not set")

    inner = Inner()
    with pytest.raises(errors.SecretMissing, match="API_KEY"):
        await hiding.Hiding(inner, find).start(_spec(), modern=True, lines=lambda line: None)
    assert inner.started == []


@pytest.mark.requirement("deploy:secrets:hiding-is-bounded")
def test_what_one_dear_line_took_beyond_its_second_is_taken_from_the_next_ones() -> None:
    budget = hiding.Budget()
    assert budget.allows("x")
    budget.spend(600.0)
    allowed: list[bool] = []
    until = time.monotonic() + 1.1  # a second's beginning lies in it
    while time.monotonic() < until:
        allowed.append(budget.allows("x"))
    assert not any(allowed)


@pytest.mark.requirement("deploy:secrets:hiding-is-bounded")
async def test_values_of_thousands_of_lines_do_not_hold_the_loop_when_a_copy_starts() -> None:
    value = "\n".join(f"{number:06x}" for number in range(9000)).encode()
    given = (hiding.Given(name="A", value=value), hiding.Given(name="B", value=value[::-1]))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(others())
    await hiding.Hiding(Inner(), _giving(*given)).start(_spec(), modern=True, lines=lambda _: None)
    busy.cancel()
    # Three or so, if the values were looked at in between two turns.
    assert turns > 10
