"""Servers as they come from their indexes: hosted, called by a real client, and what they keep is kept."""

import asyncio
from typing import Any

import pytest

from real.hosted.conftest import Hosting
from support import clients

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_CALLS: dict[str, tuple[clients.Mode, int, str, dict[str, Any], str]] = {
    # client's mode, number of tools, one of them, its arguments, what the answer holds
    "time": ("auto", 2, "get_current_time", {"timezone": "Asia/Tokyo"}, "Asia/Tokyo"),
    "git": ("auto", 12, "git_log", {"repo_path": "/data/repo"}, "The first commit"),
    "sqlite": ("legacy", 6, "read_query", {"query": "SELECT 6 * 7 AS answer"}, "{'answer': 42}"),
    "everything": ("legacy", 13, "echo", {"message": "hello"}, "Echo: hello"),
    "filesystem": ("legacy", 14, "list_allowed_directories", {}, "/data"),
    "memory": ("legacy", 9, "read_graph", {}, "entities"),
    "sequential-thinking": (
        "legacy",
        1,
        "sequentialthinking",
        {"thought": "first", "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1},
        '"thoughtNumber": 1',
    ),
}


@pytest.mark.requirement("hosted:servers:called", "deploy:npm:servers", "deploy:npm:deploy")
@pytest.mark.parametrize("name", list(_CALLS))
async def test_a_server_as_its_index_has_it_is_hosted_and_answers(hosting: Hosting, name: str) -> None:
    mode, tools, tool, arguments, expected = _CALLS[name]
    target = await asyncio.to_thread(hosting.endpoint, name)
    seen = await clients.python(target, mode, tool, arguments)
    assert not seen.is_error, seen
    assert expected in " ".join(seen.texts)
    # Newer versions may have more: the Python ones are not pinned here.
    assert len(seen.tools) >= tools
    assert tool in seen.tools
    assert hosting.deployed(name)["server"]["deployment"]["lock"]


_REPO = {"repo_path": "/data/repo"}
_ADA = {"name": "Ada", "entityType": "person", "observations": ["kept"]}
_KEPT: dict[str, tuple[tuple[str, dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    # what is written, and what is read afterwards
    "git": (("git_create_branch", {**_REPO, "branch_name": "kept"}), ("git_branch", {**_REPO, "branch_type": "local"})),
    "sqlite": (("create_table", {"query": "CREATE TABLE kept (n INTEGER)"}), ("list_tables", {})),
    "filesystem": (
        ("write_file", {"path": "/data/note.txt", "content": "kept"}),
        ("read_text_file", {"path": "/data/note.txt"}),
    ),
    "memory": (("create_entities", {"entities": [_ADA]}), ("read_graph", {})),
}


@pytest.mark.requirement("hosted:servers:kept")
@pytest.mark.parametrize("name", list(_KEPT))
async def test_what_a_server_writes_is_there_after_it_was_stopped(hosting: Hosting, name: str) -> None:
    write, read = _KEPT[name]
    target = await asyncio.to_thread(hosting.endpoint, name)
    written = await clients.python(target, "legacy", *write)
    assert not written.is_error, written
    for what in ("stop", "start"):
        await asyncio.to_thread(hosting.api, "POST", name, f"/{what}")
    found = await clients.python(target, "legacy", *read)
    assert not found.is_error, found
    assert "kept" in " ".join(found.texts)


@pytest.mark.requirement("hosted:servers:fetch")
async def test_the_fetch_server_reaches_the_site_of_its_manifest_and_without_it_says_that_it_cannot(
    hosting: Hosting, site: int
) -> None:
    url = {"url": f"http://site.example:{site}/"}
    reaching = await asyncio.to_thread(hosting.endpoint, "fetch")
    closed = await asyncio.to_thread(hosting.endpoint, "fetch-closed")
    found = await clients.python(reaching, "auto", "fetch", url)
    assert not found.is_error, found
    assert "A page of this machine." in " ".join(found.texts)
    elsewhere = await clients.python(reaching, "auto", "fetch", {"url": "http://evil.example/"})
    assert elsewhere.is_error
    failed = await clients.python(closed, "auto", "fetch", url)
    assert failed.is_error
    assert "connection issue" in " ".join(failed.texts)


@pytest.mark.requirement("hosted:servers:dies")
async def test_a_server_that_dies_at_its_start_is_an_error_with_its_last_words_and_they_are_in_its_log(
    hosting: Hosting,
) -> None:
    error = (await asyncio.to_thread(hosting.deployed, "sqlite-open"))["error"]
    last = "AttributeError: 'Server' object has no attribute 'list_resources'"
    assert error["code"] == "deploy_failed"
    assert last in error["message"]
    assert error["data"]["state"] == "failed"
    assert last in error["data"]["error"]
    texts: list[str] = []
    for _ in range(1000):
        log = await asyncio.to_thread(hosting.api, "GET", "sqlite-open", "/logs")
        texts = [line["text"] for line in log["items"]]
        if any(last in text for text in texts):
            break
        await asyncio.sleep(0.1)  # the log is written in batches, and the command line is as quick
    assert texts[0].startswith("[smcp] deployed nothing")
    assert any(text.startswith("Traceback") for text in texts), texts
    assert any(last in text for text in texts), texts


@pytest.mark.requirement("hosted:names:refused")
@pytest.mark.parametrize(
    "source", ["pypi:-r/etc/passwd", "npm:file:/etc", "pypi:x --index-url=http://evil.example", "pypi:x;touch y"]
)
def test_attack_a_name_that_is_more_than_a_name_is_refused_by_the_api_and_the_command_line(
    hosting: Hosting, source: str
) -> None:
    key = hosting.admin["acme"]
    answer = hosting.platform.smcp("deploy", source, "--tenant", "acme", "--name", "x", key=key, code=2)
    assert answer["error"]["code"] == "invalid_params"
    assert f"'{source}' is not" in answer["error"]["message"]
    assert f"{source.partition(':')[0]}:NAME" in answer["error"]["message"]
    bare = hosting.refused("acme", {"source": source, "name": "x"})
    assert bare.status_code == 400
    assert bare.json()["error"]["message"] == answer["error"]["message"]
    assert "x" not in {one["name"] for one in hosting.platform.api("GET", "/tenants/acme/servers", key=key)["items"]}
