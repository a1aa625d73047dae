"""The three processes of `smcp up`: who has which rights, and what happens when one of them is killed."""

import contextlib
import os
import pathlib
import signal
import stat

import httpx2
import pytest

from support import processes, wire
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ROOT = os.geteuid() == 0
_SOON_S = 60.0
_ANSWER_S = 120.0


def _module(platform: Platform, name: str) -> int:
    """The process id of the platform's process that runs the module `name`."""
    found = {one.pid for one in platform.family() if f" -m {name} " in f"{one.command} "}
    # The launcher's children have its command line until they run what they are for, and may be gone by now.
    for pid in sorted(found):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(_status(pid)["PPid"]) in found:
                found.discard(pid)
    assert len(found) == 1, found
    return found.pop()


def _status(pid: int) -> dict[str, str]:
    """proc(5), /proc/pid/status."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found: set[str] = set()
    for file in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed between the listing and the reading
            target = os.readlink(file)
            if target.startswith("socket:["):
                found.add(target[8:-1])
    return found


def _listening() -> set[str]:
    """The inodes of TCP sockets that listen."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = [line.split() for line in pathlib.Path(table).read_text("ascii").splitlines()[1:]]
        found |= {row[9] for row in rows if row[3] == "0A"}
    return found


@pytest.mark.requirement("up:processes:rights")
def test_who_faces_the_network_has_no_rights_and_who_has_rights_faces_nobody(platform: Platform) -> None:
    node, launcher = _module(platform, "smcp.app.node"), _module(platform, "smcp.sandbox.launcher")
    foreground = int(_status(node)["PPid"])
    listening = _listening()
    assert _sockets(node) & listening, "the platform listens"
    assert not _sockets(launcher) & listening
    assert not _sockets(foreground) & listening
    shown = _status(node)
    assert shown["NoNewPrivs"] == "1"
    assert {shown[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    if _ROOT:
        assert set(shown["Uid"].split()) == set(shown["Gid"].split()) != {"0"}
        assert shown["Groups"] == ""
        assert platform.data.stat().st_uid == int(shown["Uid"].split()[0])
    assert stat.S_IMODE(platform.data.stat().st_mode) == 0o700
    # The root key and credentials of package sources are in neither process's command line or environment.
    for pid in (node, launcher):
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
        assert len(words) <= 8, words
    assert pathlib.Path(f"/proc/{launcher}/environ").read_text("utf-8") == "LC_ALL=C.UTF-8\0"


@pytest.mark.requirement("up:processes:reach")
@pytest.mark.skipif(not _ROOT, reason="only root can give up root")
def test_the_platform_sees_of_a_closed_home_only_what_it_needs(tmp_path: pathlib.Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "private").write_text("canary")
    with Platform(home) as platform:
        view = pathlib.Path(f"/proc/{_module(platform, 'smcp.app.node')}/root")
        inside = {path.name for path in (view / home.relative_to("/")).iterdir()}
        assert inside == {"data"}
        answer = httpx2.get(f"{platform.base_url}/readyz", timeout=_ANSWER_S)
        assert answer.status_code == 200, answer.text


@pytest.mark.requirement("up:processes:ends")
@pytest.mark.parametrize("victims", [("node",), ("launcher",), ("foreground",), ("node", "launcher", "foreground")])
def test_when_one_is_killed_nothing_goes_on_and_what_was_acknowledged_is_kept(
    tmp_path: pathlib.Path, victims: tuple[str, ...]
) -> None:
    wheels = tmp_path / "wheels"
    wire.wheel(wheels)
    with Platform(tmp_path, {"SMCP_DEPLOY_WHEEL_DIRS": str(wheels)}) as platform:
        at = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "scripted"))["scripted"]
        fields, body = wire.modern("tools/list")
        headers = {**fields, "Authorization": f"Bearer {at.key}"}
        answer = httpx2.post(at.url, headers=headers, content=body, timeout=_ANSWER_S)
        assert answer.status_code == 200, answer.text
        family = platform.family()
        node = _module(platform, "smcp.app.node")
        pids = {
            "node": node,
            "launcher": _module(platform, "smcp.sandbox.launcher"),
            "foreground": int(_status(node)["PPid"]),
        }
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        assert processes.left(family, _SOON_S) == set()
        platform.kill()
        platform.start()
        admin = platform.create_key("acme", "admin")
        assert [one["name"] for one in platform.api("GET", "/tenants/acme/servers", key=admin)["items"]] == ["scripted"]
