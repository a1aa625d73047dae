"""Servers as people use them keep their state: the reference memory server, git, and SQLite."""

import json
from typing import Any

import httpx2
import pytest

from real.volumes.conftest import Keeping

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


def _deploy(keeping: Keeping, source: str, name: str, manifest: str) -> None:
    keeping.platform.deploy("acme", source, name, keeping.admin["acme"], manifest)


def _call(keeping: Keeping, server: str, tool: str, **arguments: Any) -> Any:
    answer = httpx2.post(
        f"{keeping.platform.base_url}/api/v1/tenants/acme/servers/{server}/call",
        headers={"Authorization": f"Bearer {keeping.admin['acme']}"},
        json={"tool": tool, "arguments": arguments},
        timeout=120.0,
    )
    assert answer.is_success, answer.text
    told = answer.json()
    assert not told.get("isError"), told
    return told["content"][0]["text"]


def _again(keeping: Keeping, server: str) -> None:
    """Stop the server and let it be started again."""
    for what in ("stop", "start"):
        keeping.platform.api("POST", f"/tenants/acme/servers/{server}/{what}", key=keeping.admin["acme"])


@pytest.mark.requirement("volumes:real:servers")
def test_the_memory_server_remembers(keeping: Keeping) -> None:
    manifest = '[env]\nMEMORY_FILE_PATH = "/data/memory.json"\n[volume]\nsize = "1MiB"\n'
    _deploy(keeping, "npm:@modelcontextprotocol/server-memory", "memory", manifest)
    entity = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}
    _call(keeping, "memory", "create_entities", entities=[entity])
    # Each call of the API is a legacy session of its own, so that its copy ends with it.
    assert json.loads(_call(keeping, "memory", "read_graph"))["entities"][0]["name"] == "Ada"
    _again(keeping, "memory")
    found = json.loads(_call(keeping, "memory", "search_nodes", query="program"))
    assert found["entities"][0]["observations"] == ["wrote the first program"]


@pytest.mark.requirement("volumes:real:servers")
def test_git_keeps_every_commit_over_stops(keeping: Keeping) -> None:
    git = """
        import os, subprocess
        env = {"PATH": "/usr/bin", "HOME": "/tmp", "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "a@example.com",
               "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "a@example.com"}
        def git(*words):
            done = subprocess.run(["/usr/bin/git", *words], cwd="/data/repo", env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout
        os.makedirs("/data/repo", exist_ok=True)
        if not os.path.exists("/data/repo/.git"):
            git("init", "-q")
    """
    for number in range(3):
        keeping.run(f"""{git}
        open("/data/repo/file", "a").write("{number}\\n")
        git("add", "file")
        git("commit", "-q", "-m", "commit {number}")
        """)
        keeping.stop()
        told = keeping.run(f"""{git}
        git("fsck", "--strict", "--full")
        out = [git("status", "--porcelain"), git("log", "--format=%s")]
        """)
        assert told == ["", "".join(f"commit {one}\n" for one in range(number, -1, -1))]


@pytest.mark.requirement("volumes:real:servers")
@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_sqlite_is_whole_in_every_snapshot_that_is_taken_while_it_writes(mode: str, keeping: Keeping) -> None:
    # Always as many rows in both tables, and a sum of nothing: what half a transaction would break.
    keeping.run(f"""
        import os, sqlite3, threading, time
        path = "/data/{mode}.db"
        base = sqlite3.connect(path)
        base.execute("pragma journal_mode={mode}")
        base.execute("create table a (n integer)")
        base.execute("create table b (n integer)")
        base.commit()
        base.close()
        going = True
        def write():
            base = sqlite3.connect(path)
            number = 0
            while going:
                number += 1
                with base:
                    base.execute("insert into a values (?)", (number,))
                    base.execute("insert into b values (?)", (-number,))
                time.sleep(0.002)
            base.close()
        writer = threading.Thread(target=write)
        writer.start()
    """)
    taken: list[str] = []
    for _ in range(4):
        made = keeping.api("POST", "/volume/snapshots").json()
        taken.append(made["id"])
        if "taken while the server ran" in made["note"]:
            # Without a freezer (control groups), or too slow for one: said, and nothing more is promised.
            keeping.run("going = False\nwriter.join()")
            return
    keeping.run("going = False\nwriter.join()")
    counts: list[int] = []
    for one in taken:
        assert keeping.api("POST", "/volume/restore", {"snapshot": one}).is_success
        counts.append(
            keeping.run(f"""
            import sqlite3
            base = sqlite3.connect("/data/{mode}.db")
            assert base.execute("pragma integrity_check").fetchone() == ("ok",)
            both = "select n from a union all select n from b"
            rows, total = base.execute(f"select count(*), total(n) from ({{both}})").fetchone()
            out = rows if total == 0 and rows % 2 == 0 else f"half a transaction: {{rows}} {{total}}"
            """)
        )
    assert counts == sorted(counts)
    assert counts[-1] > 0
