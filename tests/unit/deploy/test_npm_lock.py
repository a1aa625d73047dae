"""npm's lock file as data: what is a registry's package, and everything that is none."""

import json
from typing import Any

import pytest

from smcp.deploy import npm_lock
from smcp.kernel import errors
from support import registry

_SOME = registry.integrity(b"x")


def _lock(packages: dict[str, Any], root: dict[str, Any] | None = None, version: int = 3) -> bytes:
    return json.dumps({"lockfileVersion": version, "packages": {"": root or {}, **packages}}).encode()


def _package(**more: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "integrity": _SOME, **more}


@pytest.mark.requirement("deploy:npm:lock")
def test_the_plan_names_every_package_where_it_goes() -> None:
    found = npm_lock.parse(
        _lock(
            {
                "node_modules/b": _package(name="real", version="2.0.0-rc.1"),
                "node_modules/@s/a": _package(),
                "node_modules/@s/a/node_modules/b": _package(integrity=f"sha1-abc= {_SOME}"),
                "node_modules/dev": _package(dev=True, dependencies={"x": "file:.."}),
                "node_modules/@s/a/node_modules/inside": {"version": "1.0.0", "inBundle": True},
            }
        )
    )
    assert [(one.path, one.operand) for one in found] == [
        ("node_modules/@s/a", "@s/a@1.0.0"),
        ("node_modules/@s/a/node_modules/b", "b@1.0.0"),
        ("node_modules/b", "real@2.0.0-rc.1"),
    ]
    assert {one.integrity for one in found} == {_SOME}
    assert len(bytes.fromhex(npm_lock.hexadecimal(_SOME))) == 64


@pytest.mark.requirement("deploy:npm:only-registry")
@pytest.mark.parametrize(
    "wish",
    [
        "git+ssh://git@host.example/a.git",
        "git+https://host.example/a.git#main",
        "git://host.example/a",
        "github:a/b",
        "a/b",
        "https://host.example/a.tgz",
        "http://169.254.169.254/a.tgz",
        "file:../a",
        "file:/etc",
        "./a",
        "/a",
        "link:../a",
        "workspace:*",
        "npm:../a@1",
        "npm:a@file:..",
    ],
)
@pytest.mark.parametrize("kind", ["dependencies", "optionalDependencies", "peerDependencies"])
def test_a_dependency_on_something_else_than_a_registry_is_refused_by_its_name(wish: str, kind: str) -> None:
    with pytest.raises(errors.DeployFailed, match="host depends on evil") as raised:
        npm_lock.parse(_lock({"node_modules/host": _package(**{kind: {"evil": wish}})}))
    assert "git@host" not in raised.value.public  # what may be a credential


@pytest.mark.requirement("deploy:npm:only-registry")
@pytest.mark.parametrize("wish", ["^1.0.0", ">=1 <2 || 3.x", "*", "", "latest", "npm:other@^1.0.0", "npm:@s/other"])
def test_ranges_tags_and_aliases_of_the_registry_are_taken(wish: str) -> None:
    assert npm_lock.parse(_lock({"node_modules/host": _package(dependencies={"fine": wish})}))


@pytest.mark.requirement("deploy:npm:lock")
@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "x",
        "packages/x",
        "node_modules/",
        "node_modules/..",
        "node_modules/../x",
        "node_modules/x/../../y",
        "node_modules/x/y",
        "node_modules/x/lib/node_modules/y",
        "/node_modules/x",
        "node_modules//x",
        "node_modules/x/",
        "node_modules/x\u0000",
        "node_modules/.bin",
        "node_modules/@s",
        "node_modules/node_modules",
    ],
)
def test_a_place_outside_of_node_modules_is_refused(path: str) -> None:
    with pytest.raises(errors.DeployFailed):
        npm_lock.parse(_lock({path: _package()}))


@pytest.mark.requirement("deploy:npm:lock")
@pytest.mark.parametrize(
    "entry",
    [
        {"link": True, "resolved": "../x"},
        _package(version="file:.."),
        _package(version=""),
        _package(name="--registry=x"),
        _package(name="../x"),
        {"version": "1.0.0"},
        {"version": "1.0.0", "integrity": "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk="},
        {"version": "1.0.0", "integrity": "sha512-short=="},
        _package(os=["nowhere"]),
        _package(cpu=["!x64", "!arm64", "!" + npm_lock._machine()[1]]),  # pyright: ignore[reportPrivateUsage] - whatever this machine is
    ],
)
def test_an_entry_that_is_no_package_with_a_digest_for_this_machine_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(errors.DeployFailed):
        npm_lock.parse(_lock({"node_modules/x": entry}))


@pytest.mark.requirement("deploy:npm:lock")
def test_an_optional_package_for_another_machine_is_left_out() -> None:
    found = npm_lock.parse(
        _lock(
            {
                "node_modules/mine": _package(optional=True, os=["linux", "darwin"], cpu=["any"], libc="any"),
                "node_modules/not-there": _package(optional=True, os=["!nowhere"]),
                "node_modules/theirs": _package(optional=True, os=["darwin"]),
                "node_modules/nor-theirs": _package(optional=True, os=["!linux"]),
            }
        )
    )
    assert [one.name for one in found] == ["mine", "not-there"]


@pytest.mark.requirement("deploy:npm:lock")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"lockfileVersion": 1, "dependencies": {}}',
        b'{"lockfileVersion": 3}',
        b'{"lockfileVersion": 3, "packages": {"node_modules/x": 1}}',
        b"[" * 100_000,
        b" " * (npm_lock.MAX_BYTES + 1),
        b'{"lockfileVersion": 3, "packages": {"": {"dependencies": {"x": 1}}}}',
    ],
)
def test_what_is_no_lock_is_refused_and_breaks_nothing(data: bytes) -> None:
    with pytest.raises(errors.DeployFailed):
        npm_lock.parse(data)
