"""The profiles file: who may read it, what survives, and which profile a command gets."""

import multiprocessing
import os
import pathlib
import stat

import pytest

from smcp.cli import failures, profiles

KEY = "smcp_acme_0123456789secret"
ACME = profiles.Profile("http://127.0.0.1:8080", "acme", KEY)
OPERATOR = profiles.Profile("http://127.0.0.1:8080", "platform", "smcp_platform_0123456789secret")


def _mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> profiles.Profiles:
    return profiles.Profiles(tmp_path / "config" / "smcp")


@pytest.mark.requirement("cli:profiles:private")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_saved_profile_is_readable_by_its_owner_only_whatever_the_umask(store: profiles.Profiles, umask: int) -> None:
    before = os.umask(umask)
    try:
        store.save("acme", ACME)
    finally:
        os.umask(before)
    assert _mode(store.file) == 0o600
    assert _mode(store.folder) == 0o700
    assert store.load() == {"acme": ACME}


@pytest.mark.requirement("cli:profiles:refuse-open")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_profiles_file_that_others_may_touch_is_refused_and_left_as_it_is(
    store: profiles.Profiles, mode: int
) -> None:
    store.save("acme", ACME)
    store.file.chmod(mode)
    with pytest.raises(failures.Failure, match="Others may read or write") as refused:
        store.load()
    assert f"chmod 600 {store.file}" in refused.value.hint
    with pytest.raises(failures.Failure):
        store.save("other", ACME)
    assert _mode(store.file) == mode


@pytest.mark.requirement("cli:profiles:refuse-open")
def test_no_key_is_put_into_a_directory_that_others_may_write_to(store: profiles.Profiles) -> None:
    store.folder.mkdir(parents=True)
    store.folder.chmod(0o777)
    with pytest.raises(failures.Failure, match="Others may write"):
        store.save("acme", ACME)
    assert list(store.folder.iterdir()) == []


@pytest.mark.requirement("cli:profiles:refuse-open")
@pytest.mark.parametrize(
    "text",
    [
        "not toml = = =",
        'acme = "text"\n',
        '[acme]\nurl = "http://x"\ntenant = "acme"\n',
        '[acme]\nurl = "http://x"\ntenant = "acme"\nkey = 5\n',
        '[acme]\nurl = "http://x"\ntenant = "acme"\nkey = "k"\nmore = "x"\n',
    ],
)
def test_a_file_that_is_not_made_of_profiles_is_refused_without_showing_its_content(
    store: profiles.Profiles, text: str
) -> None:
    store.save("acme", ACME)
    store.file.write_text(text)
    with pytest.raises(failures.Failure, match=r"profiles\.toml"):
        store.load()
    assert store.file.read_text() == text


def _save(folder: pathlib.Path, name: str) -> None:
    profiles.Profiles(folder).save(name, ACME)


@pytest.mark.requirement("cli:profiles:atomic")
def test_profiles_saved_by_many_processes_at_once_are_all_kept(store: profiles.Profiles) -> None:
    names = [f"p{number}" for number in range(8)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(_save, [(store.folder, name) for name in names])
    assert sorted(store.load()) == names
    assert [entry.name for entry in store.folder.iterdir()] == ["profiles.toml"]


@pytest.mark.requirement("cli:profiles:atomic")
def test_a_profile_that_cannot_be_written_leaves_the_file_as_it_was(store: profiles.Profiles) -> None:
    store.save("acme", ACME)
    before = store.file.read_bytes()
    with pytest.raises(failures.Failure):
        store.save("broken", ACME._replace(key='smcp_acme_"\n[other]'))
    assert store.file.read_bytes() == before
    assert [entry.name for entry in store.folder.iterdir()] == ["profiles.toml"]


@pytest.mark.requirement("cli:profiles:atomic")
def test_a_linked_profiles_file_stays_a_link(store: profiles.Profiles, tmp_path: pathlib.Path) -> None:
    store.save("acme", ACME)
    elsewhere = tmp_path / "dotfiles.toml"
    store.file.rename(elsewhere)
    store.file.symlink_to(elsewhere)
    store.save("default", OPERATOR)
    assert store.file.is_symlink()
    assert sorted(store.load()) == ["acme", "default"]
    assert _mode(elsewhere) == 0o600


@pytest.mark.requirement("cli:profiles:private")
def test_values_survive_writing_and_reading(store: profiles.Profiles) -> None:
    odd = profiles.Profile('https://smcp.example/a?b\\c"d', "acme", "!\"#$%&'()*+~\\")
    store.save("odd.name_1-x", odd)
    assert store.load() == {"odd.name_1-x": odd}


@pytest.mark.requirement("cli:profiles:private")
@pytest.mark.parametrize("name", ["", "A", "a b", "a]", "../a", "a--b", "ä", "x" * 65])
def test_a_name_that_is_not_plain_is_refused(store: profiles.Profiles, name: str) -> None:
    with pytest.raises(failures.Failure, match="can't name a profile"):
        store.save(name, ACME)


@pytest.mark.requirement("cli:profiles:choice")
@pytest.mark.parametrize(
    ("environ", "named", "tenant", "expected"),
    [
        ({}, None, None, "default"),
        ({}, None, "acme", "acme"),
        ({}, None, "unknown", "default"),
        ({}, None, "globex", "a-globex"),
        ({"SMCP_PROFILE": "acme"}, None, "globex", "acme"),
        ({"SMCP_PROFILE": "acme"}, "default", "globex", "default"),
        ({"SMCP_URL": "http://x", "SMCP_API_KEY": "smcp_other_k"}, "acme", None, "acme"),
    ],
)
def test_the_most_deliberate_choice_of_a_profile_wins(
    store: profiles.Profiles, environ: dict[str, str], named: str | None, tenant: str | None, expected: str
) -> None:
    for name, owner in (("default", "platform"), ("acme", "acme"), ("a-acme", "acme"), ("a-globex", "globex")):
        store.save(name, profiles.Profile(f"http://{name}", owner, f"smcp_{owner}_{name}"))
    chosen = profiles.choose(store, environ, named=named, tenant=tenant)
    assert chosen.url == f"http://{expected}"
    assert f"'{expected}'" in chosen.source


@pytest.mark.requirement("cli:profiles:choice")
def test_address_and_key_from_the_environment_need_no_file(store: profiles.Profiles) -> None:
    environ = {"SMCP_URL": "https://smcp.example", "SMCP_API_KEY": KEY, "SMCP_PROFILE": "acme"}
    chosen = profiles.choose(store, environ, tenant="globex")
    assert (chosen.url, chosen.tenant, chosen.key) == ("https://smcp.example", "acme", KEY)


@pytest.mark.requirement("cli:profiles:key-stays")
@pytest.mark.parametrize("environ", [{"SMCP_URL": "https://evil.example"}, {"SMCP_API_KEY": KEY}])
def test_half_an_environment_is_refused_instead_of_being_filled_up_from_a_profile(
    store: profiles.Profiles, environ: dict[str, str]
) -> None:
    store.save("default", OPERATOR)
    with pytest.raises(failures.Failure, match="work together only"):
        profiles.choose(store, environ)


@pytest.mark.requirement("cli:errors:next-step")
def test_a_missing_profile_names_those_that_exist(store: profiles.Profiles) -> None:
    with pytest.raises(failures.Failure, match="There is no profile yet") as none:
        profiles.choose(store, {})
    assert "smcp up" in none.value.hint
    store.save("acme", ACME)
    with pytest.raises(failures.Failure, match="there are: acme"):
        profiles.choose(store, {}, named="other")


@pytest.mark.requirement("cli:profiles:choice")
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"SMCP_CONFIG": "/x/y", "XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/x/y"),
        ({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/smcp"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/smcp"),
        ({"HOME": "/h"}, "/h/.config/smcp"),
    ],
)
def test_the_directory_follows_the_environment(environ: dict[str, str], expected: str) -> None:
    assert profiles.directory(environ) == pathlib.Path(expected)


@pytest.mark.requirement("cli:errors:no-secret")
def test_a_repr_hides_the_key(store: profiles.Profiles) -> None:
    store.save("default", ACME)
    assert KEY not in repr(ACME)
    assert KEY not in repr(profiles.choose(store, {}))
    assert KEY not in repr(store.load())
