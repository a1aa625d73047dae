"""What must not be in the repository: machines' paths, package sources' addresses, secrets, unpinned locks."""

import json
import os
import re
import urllib.parse

import pytest

from checks import tree

# Written in parts, because this file is searched too.
_ADDRESSES = ["pypi" + ".org", "python" + "hosted.org", "npm" + "js.org", "npm" + "js.com", "yarn" + "pkg.com"]
_PATHS = [
    r"/wo" + r"rk/(?:main|shared)\b",
    r"/ho" + r"me/(?!ada/|ann/|bob/)[a-z][a-z0-9_-]*/",
    r"/Us" + r"ers/[A-Za-z]",
    r"[A-Z]:\\Us" + r"ers\\",
]
_SECRETS = [
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*(?:[A-Za-z0-9+/=]{40,}\s*){2}",
    r"\bgh[pousr]_[A-Za-z0-9]{36}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\bxox[abpr]-[A-Za-z0-9-]{20,}",
    r"\bnpm_[A-Za-z0-9]{36}\b",
    r"\bpypi-AgEI[A-Za-z0-9_-]{40,}",
    r"\bsk-[a-z]{2,10}-[A-Za-z0-9_-]{40,}",
]
_LOCKS = [
    "requirements/runtime.txt",
    "requirements/dev.txt",
    *(f"src/smcp/cli/demos/{one}/requirements.txt" for one in ("git", "sqlite")),
    "src/smcp/cli/templates/python/requirements.txt",
    *(f"tests/clients/python/{one}.txt" for one in ("classic", "fast")),
]
_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "NPM_CONFIG_REGISTRY")


def _texts() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in tree.files():
        data = file.read_bytes()
        if b"\0" not in data:
            found[tree.name(file)] = data.decode("utf-8")
    return found


def _search(patterns: list[str]) -> dict[str, str]:
    pattern = re.compile("|".join(patterns))
    return {name: match.group() for name, text in _texts().items() if (match := pattern.search(text))}


@pytest.mark.requirement("checks:hygiene:addresses")
def test_no_file_names_a_package_source() -> None:
    here = {
        host
        for variable in _VARIABLES
        for address in os.environ.get(variable, "").split()
        if (host := urllib.parse.urlsplit(address).hostname) and host not in ("localhost", "127.0.0.1")
    }
    assert _search([re.escape(host) for host in [*_ADDRESSES, *here]]) == {}


@pytest.mark.requirement("checks:hygiene:paths")
def test_no_file_names_a_place_that_exists_on_one_machine_only() -> None:
    assert _search(_PATHS) == {}


@pytest.mark.requirement("checks:hygiene:secrets")
def test_no_file_holds_a_secret() -> None:
    assert _search(_SECRETS) == {}


@pytest.mark.requirement("checks:hygiene:secrets")
def test_no_platforms_data_is_here() -> None:
    # A platform that ran in the checkout leaves them: its root key, its stores and their journals.
    data = re.compile(r"(?:^|/)(?:keys/(?:root\.key|ring\.json|wrapping\.json)|[^/]+\.db(?:-wal|-shm|\.lock)?)$")
    assert data.search("some/keys/root.key")
    assert data.search("store/kv.db-wal")
    assert [name for name in map(tree.name, tree.files()) if data.search(name)] == []


@pytest.mark.requirement("checks:hygiene:secrets")
def test_the_patterns_find_what_they_are_for() -> None:
    samples = ["ghp_" + "a" * 36, "AKIA" + "A" * 16, "-----BEGIN PRIVATE KEY-----\n" + ("A" * 64 + "\n") * 3]
    for sample in samples:
        assert re.search("|".join(_SECRETS), sample)
    for path in ("/ho" + "me/carol/smcp", "C:\\Us" + "ers\\ada"):
        assert re.search("|".join(_PATHS), path)


@pytest.mark.requirement("checks:hygiene:locks")
@pytest.mark.parametrize("lock", _LOCKS)
def test_every_locked_python_package_has_one_version_and_hashes_and_no_address(lock: str) -> None:
    text = (tree.ROOT / lock).read_text("utf-8")
    assert "://" not in text
    assert "--index-url" not in text
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    entries = [line for line in joined.splitlines() if line.strip()]
    assert len(entries) > 10
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+(\[[a-z0-9,._-]+\])?==[^\s;]+", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


@pytest.mark.requirement("checks:hygiene:locks")
def test_every_locked_npm_package_has_a_hash_and_no_address() -> None:
    locks = [file for file in tree.files(".json") if file.name == "package-lock.json"]
    assert locks
    for lock in locks:
        packages = json.loads(lock.read_text("utf-8"))["packages"]
        for name, entry in packages.items():
            if name:
                assert entry["integrity"].startswith("sha512-"), f"{tree.name(lock)}: {name}"
                assert "resolved" not in entry, f"{tree.name(lock)}: {name} names where it came from"
