"""The client against addresses that answer wrongly, elsewhere, or not at all."""

import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.cli import client, failures, main, profiles
from support import ports

KEY = "smcp_acme_0123456789secret"


class _Answers(http.server.BaseHTTPRequestHandler):
    """A web server that is not SMCP: each path answers in a wrong way of its own, and every request is noted."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        where = urllib.parse.urlsplit(self.path).path
        if where.endswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host'].replace('127.0.0.1', 'localhost')}/elsewhere")
            self.end_headers()
            return
        status, body = {
            "/html": (200, b"<html>hello</html>"),
            "/list": (200, b"[1, 2]"),
            "/refused": (401, b'{"error":{"code":"unauthenticated","message":"no","request_id":"req-1"}}'),
            "/odd-error": (500, b'{"error":"text"}'),
        }.get(where, (404, b'{"error":{"code":"not_found","message":"nothing here","request_id":"req-2"}}'))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Tests stay quiet."""


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The address of a server that is not SMCP, and what it was asked."""
    seen: list[tuple[str, str | None]] = []
    handler = type("Handler", (_Answers,), {"seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def _client(url: str) -> client.Client:
    return client.Client(profiles.Chosen(url, "acme", KEY, "profile 'acme' of profiles.toml"))


@pytest.mark.requirement("cli:client:redirects")
def test_a_redirect_is_not_followed(web: tuple[str, list[tuple[str, str | None]]]) -> None:
    url, seen = web
    with _client(url) as api, pytest.raises(failures.Failure, match="not SMCP's admin API"):
        api.get("/redirect")
    assert seen == [("/redirect", f"Bearer {KEY}")]


@pytest.mark.requirement("cli:client:redirects")
def test_a_key_for_this_machine_goes_through_no_proxy(
    web: tuple[str, list[tuple[str, str | None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = web
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, url)
    with _client(f"http://127.0.0.1:{ports.free()}") as api, pytest.raises(failures.Failure, match="Nothing answers"):
        api.get("/anything")
    assert seen == []


@pytest.mark.requirement("cli:errors:next-step")
@pytest.mark.parametrize(
    ("path", "text", "hint", "code"),
    [
        ("/html", "not SMCP's admin API", "Check the address", failures.Exit.UNREACHABLE),
        ("/list", "not SMCP's admin API", "Check the address", failures.Exit.UNREACHABLE),
        ("/refused", "profile 'acme' of profiles.toml was refused", "--profile", failures.Exit.REFUSED),
        ("/odd-error", "answered 500", "", failures.Exit.FAILED),
        ("/gone", "nothing here", "Asked with profile 'acme'", failures.Exit.NOT_FOUND),
    ],
)
def test_an_answer_that_is_no_good_is_explained(
    web: tuple[str, list[tuple[str, str | None]]], path: str, text: str, hint: str, code: failures.Exit
) -> None:
    with _client(web[0]) as api, pytest.raises(failures.Failure, match=text) as failed:
        api.get(path)
    assert hint in failed.value.hint
    assert failed.value.exit_code is code
    assert KEY not in json.dumps(failed.value.as_json())


@pytest.mark.requirement("cli:errors:next-step", "cli:errors:no-secret")
@pytest.mark.parametrize("as_json", [False, True])
def test_nobody_answering_leads_to_smcp_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    url = f"http://127.0.0.1:{ports.free()}"
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    profiles.Profiles(tmp_path / "config").save("default", profiles.Profile(url, "platform", KEY))
    code = main.run(["tenant", "list", *(["--json"] if as_json else [])])
    shown = capfd.readouterr()
    assert code == failures.Exit.UNREACHABLE
    assert shown.out == ""
    assert "smcp up" in shown.err
    assert KEY not in shown.err
    if as_json:
        assert json.loads(shown.err)["error"]["code"] == "unreachable"


@pytest.mark.requirement("cli:errors:next-step")
@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "ftp://x", "http://", "http://[", "http://x:99999", "http://x?a"]
)
def test_an_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(failures.Failure, match="not the address of a platform") as failed:
        _client(url)
    assert failed.value.exit_code is failures.Exit.USAGE


@pytest.mark.requirement("cli:client:paths")
@given(st.lists(st.text(min_size=1).filter(lambda name: name not in (".", "..")), min_size=1, max_size=4))
def test_no_name_leaves_its_place_in_the_path(names: list[str]) -> None:
    made = client.path(*(name.encode("utf-8", "replace").decode() for name in names))
    assert made.startswith("/api/v1/")
    assert len(made.removeprefix("/api/v1/").split("/")) == len(names)
    assert not set("?#\\ ") & set(made)


@pytest.mark.requirement("cli:client:paths")
@pytest.mark.parametrize("name", [".", ".."])
def test_a_name_of_dots_is_refused(name: str) -> None:
    # RFC 3986, 6.2.2.2 and 5.2.4: dots need no quoting, and a URL library takes such segments away.
    with pytest.raises(failures.Failure):
        client.path("tenants", name, "keys")


@pytest.mark.requirement("cli:client:redirects")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8080", True),
        ("http://localhost", True),
        ("http://127.evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://smcp.example", False),
    ],
)
def test_this_machine_is_told_from_others(url: str, *, expected: bool) -> None:
    assert client.is_loopback(url) is expected
