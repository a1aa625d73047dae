"""The data directory: whose it is, who uses it, and what a reset takes away."""

import json
import os
import pathlib

import pytest

from smcp.cli import datadir, failures, main, profiles

URL = "http://127.0.0.1:8080"
MINE = profiles.Profile(URL, "platform", "smcp_platform_mine")


@pytest.fixture
def known(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> profiles.Profiles:
    """The profiles that commands of the test use."""
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    return profiles.Profiles(tmp_path / "config")


@pytest.fixture
def place(tmp_path: pathlib.Path) -> datadir.DataDir:
    """A data directory with something in it, some of it read-only."""
    made = datadir.DataDir(tmp_path / "data")
    made.prepare()
    artefact = made.path / "artefacts" / "abc"
    artefact.mkdir(parents=True)
    (artefact / "code.py").write_text("x")
    artefact.chmod(0o555)
    (made.path / "keys").mkdir()
    return made


def _reset(place: datadir.DataDir, *more: str) -> int:
    return main.run(["reset", "--data", str(place.path), *more])


@pytest.mark.requirement("cli:reset:ours-only")
def test_a_reset_empties_the_directory_and_removes_the_profiles_made_for_it(
    place: datadir.DataDir, known: profiles.Profiles, capfd: pytest.CaptureFixture[str]
) -> None:
    other = profiles.Profile(URL, "other", "smcp_other_key")
    known.save("other", other)
    place.write(datadir.Notes(operator=datadir.keep(known, "default", MINE)))
    assert _reset(place, "--yes", "--json") == 0
    assert json.loads(capfd.readouterr().out)["profiles"] == ["default"]
    assert list(place.path.iterdir()) == []
    assert known.load() == {"other": other}


@pytest.mark.requirement("cli:reset:ours-only")
def test_a_profile_that_holds_another_key_by_now_is_not_removed(
    place: datadir.DataDir, known: profiles.Profiles
) -> None:
    place.write(datadir.Notes(operator=datadir.keep(known, "default", MINE)))
    replaced = MINE._replace(key="smcp_platform_another")
    known.save("default", replaced)
    assert _reset(place, "--yes") == 0
    assert known.load() == {"default": replaced}


@pytest.mark.requirement("cli:reset:ours-only")
def test_a_reset_refuses_a_directory_that_is_not_smcps(
    tmp_path: pathlib.Path, known: profiles.Profiles, capfd: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    assert main.run(["reset", "--data", str(precious.parent), "--yes"]) == failures.Exit.FAILED
    assert "is not an SMCP data directory" in capfd.readouterr().err
    assert precious.read_text() == "years of work"


@pytest.mark.requirement("cli:reset:ours-only")
def test_a_reset_does_not_follow_links_out_of_the_directory(
    place: datadir.DataDir, known: profiles.Profiles, tmp_path: pathlib.Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (place.path / "link").symlink_to(precious)
    (place.path / "artefacts" / "link").symlink_to(precious)
    assert _reset(place, "--yes") == 0
    assert (precious / "file").read_text() == "x"


@pytest.mark.requirement("cli:reset:ours-only", "up:data:one-at-a-time")
def test_a_reset_is_refused_while_the_directory_is_in_use(
    place: datadir.DataDir, known: profiles.Profiles, capfd: pytest.CaptureFixture[str]
) -> None:
    with place.hold():
        assert _reset(place, "--yes") == failures.Exit.FAILED
    assert "A platform is running" in capfd.readouterr().err
    assert (place.path / "artefacts").is_dir()


@pytest.mark.requirement("cli:destructive:asks")
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_reset_without_anybody_to_ask_changes_nothing(
    place: datadir.DataDir, known: profiles.Profiles, option: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert _reset(place, *option) == failures.Exit.USAGE
    assert "--yes" in capfd.readouterr().err
    assert (place.path / "artefacts").is_dir()


@pytest.mark.requirement("cli:reset:links")
@pytest.mark.parametrize("change", ["chmod", "fchmod"])
def test_attack_a_name_that_becomes_a_link_during_a_reset_leads_nowhere(
    place: datadir.DataDir,
    known: profiles.Profiles,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o550)
    inside = place.path / "artefacts" / "abc"
    number, changing = inside.stat().st_ino, getattr(os, change)

    def meanwhile(what: int | str, mode: int) -> None:
        # In the last moment: what runs with the platform's rights may write there until its processes have ended.
        if os.stat(what).st_ino == number:
            inside.rename(tmp_path / "aside")
            inside.symlink_to(outside)
        changing(what, mode)

    monkeypatch.setattr(os, change, meanwhile)
    place.empty()
    assert outside.stat().st_mode & 0o777 == 0o550
    assert list(place.path.iterdir()) == []


@pytest.mark.requirement("cli:reset:links")
def test_attack_links_in_the_data_directory_lead_a_reset_nowhere(
    place: datadir.DataDir, known: profiles.Profiles, tmp_path: pathlib.Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    outside.chmod(0o550)
    for link in (place.path / "cache", place.path / "keys" / "deep"):
        link.symlink_to(outside)
    (place.path / "file").symlink_to(outside / "kept")
    (place.path / "twin").hardlink_to(outside / "kept")
    marker = next(entry for entry in place.path.iterdir() if entry.is_file() and "SMCP" in entry.name.upper())
    marker.with_suffix(".new").hardlink_to(outside / "kept")
    place.write(datadir.Notes())
    assert _reset(place, "--yes") == 0
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o550
    assert list(place.path.iterdir()) == []


@pytest.mark.requirement("cli:destructive:asks")
def test_a_dry_run_names_what_would_go_and_changes_nothing(
    place: datadir.DataDir, known: profiles.Profiles, capfd: pytest.CaptureFixture[str]
) -> None:
    place.write(datadir.Notes(operator=datadir.keep(known, "default", MINE)))
    assert _reset(place, "--dry-run") == 0
    shown = capfd.readouterr().out
    assert str(place.path / "artefacts") in shown
    assert "default" in shown
    assert (place.path / "artefacts").is_dir()
    assert known.load() == {"default": MINE}


@pytest.mark.requirement("up:data:one-at-a-time")
def test_a_directory_with_other_files_is_refused_and_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(failures.Failure, match="not an SMCP data directory"):
        datadir.DataDir(tmp_path).prepare()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.requirement("up:data:one-at-a-time")
def test_the_lock_ends_with_its_holder(place: datadir.DataDir) -> None:
    with place.hold(), pytest.raises(failures.Failure, match="A platform is running"), place.hold():
        pass
    with place.hold():
        pass


@pytest.mark.requirement("cli:profiles:choice")
def test_a_profile_of_another_platform_is_never_overwritten(known: profiles.Profiles) -> None:
    production = profiles.Profile("https://smcp.example", "platform", "smcp_platform_production")
    known.save("default", production)
    assert datadir.keep(known, "default", MINE).name == "default-2"
    assert known.load() == {"default": production, "default-2": MINE}


@pytest.mark.requirement("cli:profiles:choice")
def test_a_profile_of_the_same_address_is_kept_aside(known: profiles.Profiles) -> None:
    before = MINE._replace(key="smcp_platform_before")
    known.save("default", before)
    assert datadir.keep(known, "default", MINE).name == "default"
    assert known.load() == {"default": MINE, "default-2": before}


@pytest.mark.requirement("cli:errors:no-secret")
def test_the_notes_beside_the_data_hold_no_key(place: datadir.DataDir, known: profiles.Profiles) -> None:
    place.write(datadir.Notes(operator=datadir.keep(known, "default", MINE)))
    for entry in place.path.iterdir():
        if entry.is_file():
            assert MINE.key.encode() not in entry.read_bytes()
            assert entry.stat().st_mode & 0o077 == 0


@pytest.mark.requirement("up:data:one-at-a-time")
def test_the_data_directory_is_closed_to_others(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        datadir.DataDir(tmp_path / "a" / "data").prepare()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "data").stat().st_mode & 0o777 == 0o700
