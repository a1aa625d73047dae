"""The API's page: nothing inline, nothing from elsewhere, nothing kept."""

import html.parser
import re
from collections.abc import AsyncIterator
from importlib import resources

import httpx2
import pytest
from starlette import routing

from smcp.web import docs

STATIC = resources.files("smcp.web") / "static"
FILES = ("docs.html", "docs.css", "docs.js", "icon.svg")


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the page alone."""
    transport = httpx2.ASGITransport(routing.Router(docs.pages()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


class _Tags(html.parser.HTMLParser):
    """Collects what a content security policy would stop, and where the page points to."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One tag."""
        given = dict(attrs)
        self.inline += [f"{tag} {name}" for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.requirement("web:docs:policy")
async def test_every_file_is_served_under_a_policy_that_allows_nothing_inline(client: httpx2.AsyncClient) -> None:
    for path in ("/api/docs", "/api/docs/docs.css", "/api/docs/docs.js", "/api/docs/icon.svg"):
        answer = await client.get(path)
        assert answer.status_code == 200
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.requirement("web:docs:policy")
async def test_the_page_holds_no_inline_script_or_style_and_points_only_to_files_that_are_served(
    client: httpx2.AsyncClient,
) -> None:
    tags = _Tags()
    tags.feed((STATIC / "docs.html").read_text("utf-8"))
    assert tags.inline == []
    for target in tags.targets:
        if target.startswith("#") or target == "/api/v1/openapi.json":
            continue
        assert (await client.get(target)).status_code == 200, target


@pytest.mark.requirement("web:docs:offline")
@pytest.mark.parametrize("file", FILES)
def test_no_file_names_another_site(file: str) -> None:
    named = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"')]*", (STATIC / file).read_text("utf-8")))
    assert named <= {"http://www.w3.org/2000/svg"}


@pytest.mark.requirement("web:docs:memory-only")
def test_the_script_keeps_nothing_and_sets_no_markup() -> None:
    script = (STATIC / "docs.js").read_text("utf-8")
    for word in (
        *("localStorage", "sessionStorage", "indexedDB", "document.cookie", "pushState", "replaceState"),
        *("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"),
    ):
        assert word not in script
    key = re.search(r"<input id=\"key\"[^>]*>", (STATIC / "docs.html").read_text("utf-8"))
    assert key is not None
    assert 'type="password"' in key.group()
    assert 'autocomplete="off"' in key.group()


@pytest.mark.requirement("web:docs:cached")
async def test_an_unchanged_file_is_not_sent_again(client: httpx2.AsyncClient) -> None:
    first = await client.get("/api/docs/docs.js")
    again = await client.get("/api/docs/docs.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
