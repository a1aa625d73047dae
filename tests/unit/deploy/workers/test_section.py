"""`[worker]` of the manifest: what a Worker may be asked to be, and what is refused with its place."""

import contextlib
import json
import pathlib
import re
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.deploy import manifest
from smcp.deploy.workers import section
from smcp.kernel import errors
from smcp.stores import bucket_model, kvrules

_LEAST = '[worker]\nmain = "src/index.ts"\ncompatibility_date = "2026-11-01"\n'


def _refused(text: str) -> str:
    with pytest.raises(errors.InvalidParams) as caught:
        manifest.parse(text)
    return caught.value.public


@pytest.mark.requirement("workers:manifest:refused")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[worker]\nmain = "index.js"', "compatibility_date"),
        ('[worker]\ncompatibility_date = "2026-11-01"', "main"),
        (f"{_LEAST}mian = 1", "mian"),
        (f"{_LEAST}compatibility_flags = ['experimental']", "experiment"),
        (f"{_LEAST}compatibility_flags = ['unsafe_module']", "experiment"),
        (f"{_LEAST}compatibility_flags = ['python_workers']", "experiment"),
        (f"{_LEAST}compatibility_flags = ['a b']", "worker.compatibility_flags[0]"),
        (f"{_LEAST}path = 'mcp'", "worker.path"),
        (f"{_LEAST}path = '/a/../b'", "worker.path"),
        (f"{_LEAST}path = '/a?b'", "worker.path"),
        (f"{_LEAST}path = '//a'", "worker.path"),
        (f"{_LEAST}[worker.vars]\n'a-b' = 1", "worker.vars"),
        (f"{_LEAST}[worker.vars]\n__proto__ = 1", "worker.vars"),
        (f"{_LEAST}[worker.vars]\nA = 2026-11-01", "worker.vars.A"),
        (f"{_LEAST}[worker.vars]\nA = nan", "worker.vars.A"),
        (f"{_LEAST}[worker.vars]\nA = [9007199254740992]", "worker.vars.A"),
        (f"{_LEAST}[worker.vars]\nA = '{'x' * 5200}'", "worker.vars.A is larger"),
        (f"{_LEAST}[worker.vars]\nA = {'[' * 20}{']' * 20}", "nested"),
        (f"{_LEAST}[worker.vars]\nA = 1\n[worker.kv]\nA = 'notes'", "stands for two"),
        (f"{_LEAST}[worker.kv]\nA = 'my notes'", "worker.kv"),
        (f"{_LEAST}[worker.kv]\nA = '../notes'", "worker.kv"),
        (f"{_LEAST}[worker.buckets]\nA = 'ab'", "worker.buckets"),
        (f"{_LEAST}[worker.services]\nA = 'Other_Server'", "worker.services.A"),
        (f"{_LEAST}[worker.services]\nA = {{server = 'x', props = 1}}", "props"),
        (f"{_LEAST}[[worker.durable_objects]]\nbinding = 'A'\nclass_name = 'a b'", "class_name"),
        (f"args = ['x']\n{_LEAST}", "no args"),
        (f"command = 'x.js'\n{_LEAST}", "no command"),
        (f"runtime = 'gvisor'\n{_LEAST}", "no runtime"),
        (f"env = {{A = 'x'}}\n{_LEAST}", "no env"),
        (f"config = {{A = 'x'}}\n{_LEAST}", "no config"),
        (f"remote = {{url = 'https://example.com/mcp'}}\n{_LEAST}", "no remote"),
        (f"secrets = {{KEY = 'file'}}\n{_LEAST}", "no files"),
        (f"secrets = {{KEY = 'env'}}\n{_LEAST}[worker.vars]\nKEY = 'x'", "stands for two"),
        (f"[volume]\nsize = '1GiB'\n{_LEAST}", "Durable Objects alone"),
    ],
)
def test_what_a_worker_can_t_be_is_refused_with_its_place(text: str, told: str) -> None:
    assert told in _refused(text)


@pytest.mark.requirement("workers:manifest:refused")
@pytest.mark.parametrize(
    "main",
    [
        "../x.js",
        "a/../../x.js",
        "/etc/x.js",
        ".git/x.js",
        "-x.js",
        "a//x.js",
        "a\\\\x.js",
        "x.py",
        "x",
        "",
        "a\\u0000.js",
    ],
)
def test_a_main_outside_of_the_folder_is_refused(main: str) -> None:
    assert "main" in _refused(f'[worker]\nmain = "{main}"\ncompatibility_date = "2026-11-01"')


@pytest.mark.requirement("workers:manifest:refused")
@pytest.mark.parametrize(
    "day", ["2026-13-01", "2026-02-30", "26-11-01", "2026-11-01T00:00:00", "today", "２０２６-11-01"]
)
def test_a_day_that_is_none_is_refused(day: str) -> None:
    assert "compatibility_date" in _refused(f'[worker]\nmain = "x.js"\ncompatibility_date = "{day}"')


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\u00e9 ", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.requirement("workers:manifest:variables")
@hypothesis.given(_JSON)
def test_a_variable_is_any_json_and_comes_back_from_the_record_as_it_was(value: Any) -> None:
    tree = {"worker": {"main": "x.js", "compatibility_date": "2026-11-01", "vars": {"A": value}}}
    made = msgspec.convert(tree, manifest.Manifest)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=manifest.Manifest)
    assert kept.worker is not None
    assert json.dumps(kept.worker.vars) == json.dumps({"A": value})


@pytest.mark.requirement("workers:manifest:refused")
@hypothesis.given(st.text("aB0_-. /é", max_size=70))
def test_a_name_is_taken_here_when_the_stores_take_it(text: str) -> None:
    for pattern, check in ((section.NAME, kvrules.name), (section.BUCKET, bucket_model.bucket_name)):
        taken = False
        with contextlib.suppress(errors.BadName):
            taken = check(text) == text
        assert taken == (re.fullmatch(pattern, text) is not None)


_PAGE = pathlib.Path(__file__).parents[4] / "docs/reference/manifest.md"


@pytest.mark.requirement("workers:manifest:documented")
def test_every_field_is_documented_and_the_example_is_a_worker() -> None:
    text = _PAGE.read_text("utf-8")
    listed = re.findall(r"^\| `worker\.([a-z_]+)` \|", text, re.MULTILINE)
    assert listed == [field.name for field in msgspec.structs.fields(section.Worker)]
    example = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[1]
    worker = manifest.parse(example).worker
    assert worker is not None
    assert worker.kv == {"NOTES": "notes"}
