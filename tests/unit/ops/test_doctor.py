"""The doctor names what is wrong, why it matters and what to do; and changes nothing."""

import datetime
import pathlib
import socket

import pytest

from smcp.kernel import errors, settings
from smcp.ops import doctor
from smcp.sandbox import tools
from smcp.sandbox.tools import kept
from support import ports


def _checks(directory: pathlib.Path, *, port: int = 0, require: tuple[str, ...] = ("user",)) -> dict[str, doctor.Check]:
    wanted = settings.Settings(
        platform=settings.Platform(data_dir=str(directory)),
        gateway=settings.Gateway(port=port),
        sandbox=settings.Sandbox(require=require),
    )
    return {check.name: check for check in doctor.run(wanted)}


@pytest.mark.requirement("ops:doctor:says")
def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: pathlib.Path) -> None:
    found = _checks(tmp_path / "new" / "data")
    assert {
        "python",
        "system",
        "data directory",
        "root key",
        "port",
        "disk",
        "clock",
        "node",
        "workerd",
        "esbuild",
    } <= set(found)
    for check in found.values():
        assert check.why
        assert bool(check.fix) == (check.status is not doctor.Status.OK), check
    assert not (tmp_path / "new").exists()


@pytest.mark.requirement("ops:doctor:sandbox")
def test_a_required_layer_that_is_missing_fails(tmp_path: pathlib.Path) -> None:
    found = _checks(tmp_path, require=("pid", "teleport"))
    assert found["sandbox: teleport"].status is doctor.Status.FAIL
    assert found["sandbox: pid"].why


@pytest.mark.requirement("ops:doctor:root-key")
@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o400, "ok"), (0o640, "fail"), (0o604, "fail")])
def test_a_root_key_that_others_can_read_fails(tmp_path: pathlib.Path, mode: int, status: str) -> None:
    key = tmp_path / "keys" / "root.key"
    key.parent.mkdir()
    key.write_bytes(bytes(32))
    key.chmod(mode)
    assert _checks(tmp_path)["root key"].status == status


@pytest.mark.requirement("ops:doctor:root-key")
def test_data_without_its_root_key_fails(tmp_path: pathlib.Path) -> None:
    assert _checks(tmp_path)["root key"].status is doctor.Status.OK
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "kv.db").write_bytes(b"x")
    found = _checks(tmp_path)["root key"]
    assert found.status is doctor.Status.FAIL
    assert str(tmp_path / "keys" / "root.key") in found.fix


@pytest.mark.requirement("ops:doctor:data")
def test_a_data_directory_that_can_not_be_used_fails_and_an_open_one_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    assert _checks(tmp_path / "file")["data directory"].status is doctor.Status.FAIL
    assert _checks(tmp_path / "file" / "below")["data directory"].status is doctor.Status.FAIL
    tmp_path.chmod(0o755)
    assert _checks(tmp_path)["data directory"].status is doctor.Status.WARN
    tmp_path.chmod(0o700)
    assert _checks(tmp_path)["data directory"].status is doctor.Status.OK


@pytest.mark.requirement("ops:doctor:port")
def test_a_taken_port_is_named(tmp_path: pathlib.Path) -> None:
    port = ports.free()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        found = _checks(tmp_path, port=port)["port"]
        assert found.status is doctor.Status.WARN
        assert str(port) in found.why
    assert _checks(tmp_path, port=port)["port"].status is doctor.Status.OK


@pytest.mark.requirement("ops:doctor:disk")
def test_readiness_follows_the_disk(tmp_path: pathlib.Path) -> None:
    wanted = settings.Settings(platform=settings.Platform(data_dir=str(tmp_path / "not-yet")))
    doctor.require_disk(wanted)
    with pytest.raises(errors.Unavailable):
        doctor.require_disk(wanted, least=1 << 60)


@pytest.mark.requirement("workers:tools:doctor")
def test_a_pinned_program_that_is_missing_or_changed_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = _checks(tmp_path)["esbuild"]
    assert (found.status, found.why) == ("warn", f"{tools.ESBUILD.label} is not here yet. Only Workers need it.")
    assert "npm" in found.fix
    place = kept.place(tools.ESBUILD, {"XDG_CACHE_HOME": str(tmp_path)})
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.truncate(tools.build(tools.ESBUILD).size)
    place.chmod(0o555)
    found = _checks(tmp_path)["esbuild"]
    assert found.status is doctor.Status.WARN
    assert f"{place} is not the {tools.ESBUILD.label} that is pinned, and is not used." in found.why


@pytest.mark.requirement("workers:tools:doctor")
def test_an_old_pinned_program_is_named_with_its_age() -> None:
    program = tools.WORKERD
    edge = program.released + datetime.timedelta(days=program.stale_days)
    assert doctor.stale(program.released - datetime.timedelta(days=3)) == []
    assert program.name not in {one.name for one in doctor.stale(edge)}
    old = {one.name: one for one in doctor.stale(edge + datetime.timedelta(days=1))}[program.name]
    assert (old.status, f"{program.label} is {program.stale_days + 1} days old" in old.why) == ("warn", True)
    assert "Update SMCP" in old.fix
