"""TOML of strangers: what is sound is read, and no text of an allowed length holds a thread."""

import time

import pytest

from smcp.deploy import locks, manifest, toml
from smcp.kernel import errors

_PATIENCE_S = 5.0
"""Far above what any of these takes, far below the minutes that each took before."""


@pytest.mark.requirement("deploy:toml:bounded")
@pytest.mark.parametrize(
    "text",
    [
        ".".join(["a"] * 32_000) + " = 1",
        " . ".join(['"a"'] * 10_000) + " = 1",
        "[" + ".".join(["'a'"] * 15_000) + "]",
        "a = {x = 1, " + ".".join(["b"] * 30_000) + " = 2}",
        'a = """x""" \n' + ".".join(["b"] * 30_000) + " = 2",
        "# '''\n" + ".".join(["b"] * 30_000) + " = 2",
        'a = "' + '\\"' * 30_000,
        'a = """' + '\\"""' * 15_000,
        "a = " + "[" * 32_000,
        "volume = {size = " + "9" * 60_000 + "}",
    ],
    ids=["bare", "quoted", "table", "inline", "text", "comment", "ends", "long ends", "deep", "number"],
)
def test_attack_a_manifest_that_is_dear_to_parse_is_refused_at_once(text: str) -> None:
    began = time.thread_time()
    with pytest.raises(errors.InvalidParams, match="not valid TOML"):
        manifest.parse(text)
    assert time.thread_time() - began < _PATIENCE_S


@pytest.mark.requirement("deploy:toml:bounded")
def test_attack_a_lock_that_is_dear_to_parse_is_refused_at_once() -> None:
    began = time.thread_time()
    with pytest.raises(errors.DeployFailed, match="more than 16 dots"):
        list(locks.pylock(".".join(["a"] * 2_000_000) + " = 1"))
    with pytest.raises(errors.DeployFailed, match="number is too long"):
        list(locks.pylock("a = " + "9" * 60_000))
    assert time.thread_time() - began < _PATIENCE_S


@pytest.mark.requirement("deploy:toml:bounded")
def test_dots_in_texts_comments_and_times_count_for_no_key() -> None:
    text = "\n".join(
        (
            "w = [" + "{t = 2026-01-01T00:00:00.123Z, u = 'a.b.c'}, " * 100 + "]",
            "# " + "." * 100,
            'a."b.c".d = "' + "." * 100 + '\\"' + "." * 100 + '"',
            'e = """' + ".\n." * 50 + '"""""',
            "f = '''" + '.".' * 50 + "'''",
        )
    )
    found = toml.loads(text)
    assert len(found["w"]) == 100
    assert found["a"] == {"b.c": {"d": "." * 100 + '"' + "." * 100}}
    assert found["e"].endswith('""')
