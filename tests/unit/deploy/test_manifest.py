"""The manifest: what is understood, what is refused and how it is told, and that every field is documented."""

import pathlib
import re

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from smcp.deploy import manifest
from smcp.kernel import errors

_PAGE = pathlib.Path(__file__).parents[3] / "docs/reference/manifest.md"


@pytest.mark.requirement("deploy:manifest:refused")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shar = 'tenant'", "shar"),
        ("share = 'everybody'", "$.share"),
        ("args = [1]", "$.args[0]"),
        ("[env]\nA = 1", "$.env[...]"),
        ("[env]\n'A=B' = 'x'", "env"),
        ("[env]\n'' = 'x'", "env"),
        ('[env]\nA = "x\\u0000y"', "$.env[...]"),
        ("command = '../../bin/sh'", "$.command"),
        ("command = '-c'", "$.command"),
        ("name = ['x']", "$.name"),
        ("= 1", "TOML"),
        ("mounts = ['/']", "mounts"),
        ("x = " + "[" * 5000, "TOML|nested"),
        ("description = '" + "x" * 70_000 + "'", "larger"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str, told: str) -> None:
    with pytest.raises(errors.InvalidParams, match=told if "|" in told else re.escape(told)):
        manifest.parse(text)


@pytest.mark.requirement("deploy:manifest:literal")
@hypothesis.given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=50))
def test_text_stays_what_it_is(text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    found = manifest.parse(f'args = ["{quoted}"]\n[env]\nA = "{quoted}"')
    assert found.args == (text,)
    assert found.env == {"A": text}


@pytest.mark.requirement("volumes:manifest:refused")
@pytest.mark.parametrize(
    "text",
    [
        *(f"path = '{path}'" for path in ("data", "/", "", "//data", "/data/", "/data/../etc", "/./data", "/da ta")),
        *(f"path = '/{one}'" for one in ("usr", "usr/x", "app", "app/x", "proc/1", "dev", "tmp", "run/secrets", "etc")),
        *(f"path = '{path}'" for path in ("/data\\nx", "/data:ro", "/-x", "/.hidden", "/" + "a" * 65, "/a" * 9)),
        *(f"size = {size}" for size in ("0", "-1", "1.5", "'1'", "'64 MiB'", "'64MB'", "'-1MiB'", "'0MiB'", "'1KiB'")),
        "size = '99999999999999GiB'",
        "where = '/data'",
        "path = ['/data']",
    ],
)
def test_a_volume_that_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(errors.InvalidParams, match=r"volume"):
        manifest.parse(f"[volume]\n{text}")


@pytest.mark.requirement("volumes:manifest:refused")
def test_a_volume_says_where_it_is_and_how_large() -> None:
    def parsed(text: str) -> tuple[str, int]:
        found = manifest.parse(text).volume
        assert found is not None
        return found.path, found.size_bytes

    assert parsed("[volume]") == ("/data", 64 * 1024**2)
    assert parsed("volume = {path = '/srv/my.data', size = '1GiB'}") == ("/srv/my.data", 1024**3)
    assert parsed("volume = {size = 100000}") == ("/data", 100_000)
    assert manifest.parse("").volume is None


@pytest.mark.requirement("deploy:manifest:documented")
def test_every_field_is_documented_and_every_documented_field_exists() -> None:
    listed = re.findall(r"^\| `([a-z_]+)` \|", _PAGE.read_text("utf-8"), re.MULTILINE)
    assert listed == [field.name for field in msgspec.structs.fields(manifest.Manifest)]


@pytest.mark.requirement("deploy:manifest:documented")
def test_the_example_of_the_documentation_is_a_manifest() -> None:
    example = re.search(r"```toml\n(.*?)```", _PAGE.read_text("utf-8"), re.DOTALL)
    assert example is not None
    assert manifest.parse(example[1]).name == "time"


@pytest.mark.requirement("runtime:pool:scale")
def test_copies_are_bounded_and_a_server_with_a_volume_has_one() -> None:
    assert manifest.parse("").scale == manifest.Scale(0, 0)
    assert manifest.parse("[scale]\nmin = 2\nmax = 4\n").scale == manifest.Scale(2, 4)
    assert manifest.parse("[scale]\nmin = 1\nmax = 1\n[volume]\n").volume is not None
    for text in (
        "[scale]\nmin = 3\nmax = 2\n",
        "[scale]\nmax = 257\n",
        "[scale]\nmin = -1\n",
        "[scale]\nmost = 2\n",
        "[scale]\nmax = 2\n[volume]\n",
        "[scale]\nmin = 2\n[volume]\n",
    ):
        with pytest.raises(errors.InvalidParams):
            manifest.parse(text)
