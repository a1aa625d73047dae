"""What real hosted servers keep, on a real platform: over every kind of end, and nowhere in plain."""

import contextlib
import json
import os
import pathlib
import signal
import time
from collections.abc import Generator
from typing import Final

import pytest

from real.volumes.conftest import MANIFEST, RUNNER, Keeping, platform_settings
from smcp.cli import main
from support import processes
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

_SNAPSHOT_S: Final = 1.0
_TAKES_S: Final = 3.0
"""More than one snapshot of a small volume takes on a busy machine."""


@pytest.fixture
def own(shelf: pathlib.Path, tmp_path: pathlib.Path) -> Generator[Keeping]:
    """A platform of the test's own, with one tenant: it may be ended and damaged."""
    with Platform(tmp_path, platform_settings(shelf)) as platform:
        made = Keeping(platform)
        made.host("acme")
        yield made


def _saved(keeping: Keeping, count: int) -> None:
    """Wait until the history holds so many snapshots."""
    deadline = time.monotonic() + 120
    while len(keeping.volume()["snapshots"]) < count:
        assert time.monotonic() < deadline, keeping.volume()
        time.sleep(0.1)  # the API has no event for it: a client asks again


def _closed(keeping: Keeping) -> None:
    """Wait until the volume of a server that was stopped is closed: its last state is stored by then, not before."""
    deadline = time.monotonic() + 120
    while keeping.volume()["open"]:
        assert time.monotonic() < deadline, keeping.volume()
        time.sleep(0.05)  # the API has no event for it


def _holding(directory: pathlib.Path, *texts: bytes) -> list[str]:
    found: list[str] = []
    looked = 0
    for top, _, names in os.walk(directory):
        for path in (f"{top}/{name}" for name in names if os.path.isfile(f"{top}/{name}")):
            with contextlib.suppress(FileNotFoundError):  # it is a running platform's, which has files that come and go
                content = pathlib.Path(path).read_bytes()
                looked += 1
                found += [path] if any(text in content for text in texts) else []
    assert looked
    return found


def _objects(keeping: Keeping) -> list[pathlib.Path]:
    """The sealed snapshots on disk, oldest first."""
    return sorted(path for path in keeping.platform.data.rglob("*snap-*") if path.is_file())


# --- ends ---


@pytest.mark.requirement("volumes:real:stop")
def test_files_survive_a_stop_of_the_server(keeping: Keeping) -> None:
    keeping.write("before the stop")
    keeping.stop()
    assert keeping.volume()["open"] in (True, False)
    assert keeping.read() == "before the stop"


@pytest.mark.requirement("volumes:real:stop")
@pytest.mark.parametrize("code", ["import os\nos._exit(3)", "import os\nos.abort()", "raise SystemExit", "del json"])
def test_files_survive_a_server_that_dies_by_itself(code: str, keeping: Keeping) -> None:
    keeping.write(f"before its death by {code!r}")
    keeping.api("POST", "/call", {"tool": "run", "arguments": {"code": code}})
    assert keeping.read() == f"before its death by {code!r}"


@pytest.mark.requirement("volumes:real:stop")
def test_files_survive_a_kill_of_the_server(own: Keeping) -> None:
    own.write("before the kill")
    cells = [one for one in own.platform.family() if "fixture-runner" in _command(one.pid)]
    assert cells
    for one in cells:
        with contextlib.suppress(ProcessLookupError):  # one takes the others with it
            os.kill(one.pid, signal.SIGKILL)
    # A call that the platform passes on before it has heard of the death is one that died with the server.
    deadline = time.monotonic() + 60
    while own.api("GET", "").json()["instances"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert own.read() == "before the kill"


def _command(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.mark.requirement("volumes:real:restart")
def test_files_survive_an_orderly_restart_of_the_platform(own: Keeping) -> None:
    for number in range(3):
        own.write(f"before restart {number}")
        own.platform.stop()
        own.platform.start()
        assert own.read() == f"before restart {number}"


@pytest.mark.requirement("volumes:real:bound")
@pytest.mark.parametrize("victim", ["smcp.app.node", "smcp.sandbox.launcher", "smcp up"])
def test_after_a_sudden_death_nothing_older_than_the_bound_is_lost(victim: str, own: Keeping) -> None:
    own.write("old enough")
    _saved(own, 1)
    began = changed = time.monotonic()
    newest, bound = own.volume()["snapshots"], _SNAPSHOT_S + _TAKES_S
    written: list[float] = []
    count = 0
    # On a loaded machine a snapshot takes longer: how long is seen meanwhile. One that takes far longer than others
    # is seen to its end.
    while time.monotonic() - began < bound or count < 2 or time.monotonic() - changed > bound / 2:
        own.write(f"{len(written)}")
        written.append(time.monotonic())
        if newest != (newest := own.volume()["snapshots"]):
            bound = max(bound, 2 * (time.monotonic() - changed))
            changed = time.monotonic()
            count += 1
    died = time.monotonic()
    family = own.platform.family()
    for one in family:
        if victim in _command(one.pid):
            with contextlib.suppress(ProcessLookupError):  # one takes the others with it
                os.kill(one.pid, signal.SIGKILL)
    own.platform.kill()
    assert processes.left(family, 60) == set()
    own.platform.start()
    found = int(own.read())
    assert died - written[min(found + 1, len(written) - 1)] < bound, (found, len(written), bound)


# --- walls ---


@pytest.mark.requirement("volumes:real:sealed")
def test_no_file_of_the_platform_holds_a_plain_byte_of_a_volume(own: Keeping) -> None:
    canary = "canary-7Qw2vUx90z"
    own.run(f"""
        import os
        os.makedirs("/data/name-{canary}/deep")
        open("/data/name-{canary}/file", "w").write("content-{canary}\\n" * 2000)
    """)
    forms = (f"content-{canary}".encode(), f"name-{canary}".encode(), canary.encode("utf-16-le"))
    _saved(own, 1)
    assert _holding(own.platform.data, *forms) == []
    assert own.api("POST", "/volume/snapshots").is_success
    own.stop()
    assert _holding(own.platform.data, *forms) == []
    assert not any(canary in line for line in pathlib.Path("/proc/self/mountinfo").read_text("utf-8").splitlines())
    own.platform.stop()
    assert _holding(own.platform.data, *forms) == []
    assert canary not in own.platform.log.read_text("utf-8")
    own.platform.start()
    assert own.read(f"name-{canary}/file").startswith(f"content-{canary}")


@pytest.mark.requirement("volumes:real:tenants")
def test_two_tenants_servers_of_one_name_share_nothing(keeping: Keeping) -> None:
    keeping.write("of acme", name="whose")
    assert keeping.read("whose", tenant="globex") is None
    keeping.write("of globex", name="whose", tenant="globex")
    for tenant in ("acme", "globex"):
        keeping.stop(tenant=tenant)
    assert keeping.read("whose") == "of acme"
    assert keeping.read("whose", tenant="globex") == "of globex"
    ids = {one["id"] for one in keeping.volume()["snapshots"]}
    theirs = keeping.volume(tenant="globex")["snapshots"][0]["id"]
    assert theirs not in ids
    assert keeping.api("POST", "/volume/restore", {"snapshot": theirs}).status_code == 404


@pytest.mark.requirement("volumes:real:full")
def test_a_full_volume_harms_nobody(keeping: Keeping) -> None:
    keeping.write("small")
    assert "No space left" in keeping.run("""
        with open("/data/big", "wb") as file:
            while True:
                file.write(b"x" * 65536)
    """)
    assert keeping.read() == "small"
    keeping.write("still room here", tenant="globex")
    keeping.stop()
    assert keeping.run("import os\nout = os.path.getsize('/data/big')") > 7_000_000
    keeping.run("os.unlink('/data/big')")


@pytest.mark.requirement("volumes:real:tampered")
def test_a_tampered_snapshot_stops_the_server_with_a_clear_error(own: Keeping) -> None:
    for text in ("good", "bad"):
        own.write(text)
        own.stop()
        _closed(own)
    history = own.volume()["snapshots"]
    newest = next(path for path in _objects(own) if history[0]["id"] in path.name)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    answer = own.api("POST", "/call", {"tool": "run", "arguments": {"code": "out = 1"}})
    assert answer.json()["error"]["code"] == "tampered_data"
    assert history[0]["id"] in answer.json()["error"]["message"]
    assert "damaged" in own.log()
    assert own.api("POST", "/volume/restore", {"snapshot": history[0]["id"]}).json()["error"]["code"] == "tampered_data"
    good = next(one["id"] for one in history if one["digest"] != history[0]["digest"])
    assert own.api("POST", "/volume/restore", {"snapshot": good}).is_success
    assert own.read() == "good"


# --- history ---


@pytest.mark.requirement("volumes:real:restore")
def test_a_server_goes_back_and_forth(own: Keeping) -> None:
    own.write("first")
    first = own.api("POST", "/volume/snapshots").json()
    own.write("second")
    made = own.api("POST", "/volume/restore", {"snapshot": first["id"]}).json()
    assert made["digest"] == first["digest"]
    assert own.read() == "first"
    shown = own.volume()
    assert (shown["path"], shown["size_bytes"]) == ("/data", 8 * 1024 * 1024)
    assert shown["snapshots"][0]["id"] == made["id"]
    assert own.api("POST", "/volume/restore", {}).is_success
    assert own.read() == "second"
    trail = own.platform.api("GET", "/tenants/acme/audit", key=own.admin["acme"])["items"]
    assert [one["event"]["event"] for one in trail].count("volume_restored") == 2


@pytest.mark.requirement("volumes:real:restore")
def test_a_later_deployment_keeps_the_volume_and_its_probe_leaves_it_alone(own: Keeping) -> None:
    own.write("of the first deployment")
    before = own.volume()["snapshots"]
    own.platform.deploy("acme", RUNNER, "notes", own.admin["acme"], MANIFEST)
    assert own.read() == "of the first deployment"
    assert all(one in own.volume()["snapshots"] for one in before)


@pytest.mark.requirement("volumes:real:restore")
def test_a_deleted_servers_files_are_gone_for_a_later_one_of_its_name(own: Keeping) -> None:
    own.write("to be forgotten")
    assert own.api("POST", "/volume/snapshots").is_success
    assert len(_objects(own)) >= 1
    assert own.api("DELETE", "").status_code == 204
    assert _objects(own) == []
    own.platform.deploy("acme", RUNNER, "notes", own.admin["acme"], MANIFEST)
    assert own.read() is None
    own.write("new")
    assert own.api("DELETE", "/volume").status_code == 204
    assert own.read() is None


@pytest.mark.requirement("volumes:real:restore")
def test_a_manifest_that_wants_more_than_is_allowed_is_refused(own: Keeping) -> None:
    order = {"source": RUNNER, "name": "greedy", "manifest": '[volume]\nsize = "2GiB"\n'}
    operation = own.platform.api("POST", "/tenants/acme/deployments", order, key=own.admin["acme"])
    while operation["state"] == "running":
        time.sleep(0.1)  # the API has no event for it
        operation = own.platform.api("GET", f"/tenants/acme/operations/{operation['id']}", key=own.admin["acme"])
    assert operation["state"] == "failed"
    assert "volumes.max_bytes" in operation["error"]


@pytest.mark.requirement("volumes:real:restore")
def test_the_command_line_shows_saves_restores_and_deletes(
    own: Keeping, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path))
    monkeypatch.setenv("SMCP_URL", own.platform.base_url)
    monkeypatch.setenv("SMCP_API_KEY", own.admin["acme"])

    def smcp(*words: str, code: int = 0) -> str:
        capfd.readouterr()
        assert main.run(["volume", *words]) == code
        return capfd.readouterr().out

    own.write("one")
    first = json.loads(smcp("snapshot", "acme/notes", "--json"))
    own.write("two")
    assert "The newest snapshot is snap-" in smcp("snapshot", "acme/notes")
    shown = smcp("show", "acme/notes")
    assert "8.0 MiB" in shown
    assert first["id"] in shown
    assert json.loads(smcp("restore", "acme/notes", "--dry-run", "--json"))["dry_run"]
    smcp("restore", "acme/notes", code=2)  # nobody can be asked
    assert own.read() == "two"
    assert f"restored from {first['id']}" in smcp("restore", "acme/notes", "--yes")
    assert own.read() == "one"
    smcp("restore", "acme/notes", "snap-none", "--yes", code=5)
    assert "Would delete" in smcp("delete", "acme/notes", "--dry-run")
    assert "Deleted" in smcp("delete", "acme/notes", "--yes")
    assert own.read() is None
