"""Logging in: against authorization servers that lie, answers that belong to somebody else, and commands that race."""

import concurrent.futures
import contextlib
import http.client
import http.server
import json
import multiprocessing
import pathlib
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx2
import pytest

from smcp.cli import bearer, client, failures, loopback, main, oauth, profiles

TOKENS = profiles.Tokens("access-0", "refresh-0", 0)
Answer = tuple[int, dict[str, Any]]


class Elsewhere:
    """An authorization server that is not SMCP: it answers as a test says, and notes what it was asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[tuple[str, dict[str, str], str | None]] = []
        self.metadata: dict[str, Any] = {
            "issuer": f"{url}/t/acme",
            "authorization_endpoint": f"{url}/oauth/acme/authorize",
            "token_endpoint": f"{url}/oauth/acme/token",
            "revocation_endpoint": f"{url}/oauth/acme/revoke",
            "device_authorization_endpoint": f"{url}/oauth/acme/device_authorization",
        }
        self.answers: dict[str, list[Answer]] = {}
        self.counter = 0
        self.lock = threading.Lock()

    def answer(self, path: str, form: dict[str, str], credential: str | None) -> Answer:
        with self.lock:
            self.seen.append((path, form, credential))
            if path.startswith("/.well-known/"):
                return 200, self.metadata
            if waiting := self.answers.get(path):
                return waiting.pop(0)
            if path == "/oauth/acme/token":
                self.counter += 1
                n = self.counter
                pair = {"access_token": f"access-{n}", "refresh_token": f"refresh-{n}", "expires_in": 3600}
                return 200, {**pair, "token_type": "Bearer"}
            return 200, {"ok": True}

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.seen]


class _Handler(http.server.BaseHTTPRequestHandler):
    elsewhere: Elsewhere

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        form = dict(urllib.parse.parse_qsl(self.rfile.read(size).decode()))
        path = urllib.parse.urlsplit(self.path).path
        status, document = self.elsewhere.answer(path, form, self.headers.get("Authorization"))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class names it

    def log_message(self, format: str, *args: object) -> None:
        """Tests stay quiet."""


@contextlib.contextmanager
def _listening() -> Generator[Elsewhere]:
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.elsewhere = Elsewhere(f"http://127.0.0.1:{server.server_address[1]}")  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler.elsewhere  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    with _listening() as listening:
        yield listening


@contextlib.contextmanager
def _issuer(elsewhere: Elsewhere) -> Generator[oauth.Issuer]:
    with client.connection(elsewhere.url, "the test", timeout_s=30.0) as http:
        yield oauth.Issuer(http, elsewhere.url, "acme")


@pytest.mark.requirement("oauth:cli:issuer")
@pytest.mark.parametrize("issuer", ["http://127.0.0.1:1/t/acme", "{url}/t/globex", "{url}/t/acme/", None, 5])
def test_metadata_of_another_issuer_is_refused_before_anything_is_sent(elsewhere: Elsewhere, issuer: object) -> None:
    elsewhere.metadata["issuer"] = issuer.replace("{url}", elsewhere.url) if isinstance(issuer, str) else issuer
    with _issuer(elsewhere) as asked, pytest.raises(failures.Failure, match="calls itself"):
        asked.refresh(TOKENS)
    assert elsewhere.paths() == ["/.well-known/oauth-authorization-server/t/acme"]


@pytest.mark.requirement("oauth:cli:issuer")
@pytest.mark.parametrize("name", ["token_endpoint", "revocation_endpoint", "authorization_endpoint"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/steal", "https://evil.example/x", "{url}.evil.example/x", "/x", ""]
)
def test_an_endpoint_of_another_origin_gets_no_code_and_no_token(elsewhere: Elsewhere, name: str, address: str) -> None:
    elsewhere.metadata[name] = address.replace("{url}", elsewhere.url)
    with _issuer(elsewhere) as asked, pytest.raises(failures.Failure):
        asked.refresh(TOKENS)
    assert elsewhere.paths() == ["/.well-known/oauth-authorization-server/t/acme"]


@pytest.mark.requirement("oauth:cli:no-shell")
@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "{url}/$(touch x)",
        "a:b?c",
        "{url}/`id`",
        "{url}/x\n--flag",
        "-x",
        "{url}/;id",
    ],
)
def test_cve_2025_6514_an_address_that_is_more_than_an_address_is_not_opened(
    elsewhere: Elsewhere, address: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    elsewhere.metadata["authorization_endpoint"] = address.replace("{url}", elsewhere.url)
    assert main.run(["login", elsewhere.url, "--tenant", "acme", "--json"]) == failures.Exit.UNREACHABLE
    assert not opened.exists()
    assert not (tmp_path / "config" / "profiles.toml").exists()


@pytest.mark.requirement("oauth:cli:mix-up")
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"state": "another"}, "another login"),
        ({"state": ""}, "another login"),
        ({"iss": "https://evil.example/t/acme"}, "another authorization server"),
        ({"iss": ""}, "another authorization server"),
        ({"error": "access_denied"}, "declined"),
        ({"error": "server_error", "error_description": "later"}, "later"),
    ],
)
def test_mix_up_an_answer_that_is_not_this_logins_never_costs_the_code(
    elsewhere: Elsewhere, changed: dict[str, str], why: str
) -> None:
    with _issuer(elsewhere) as issuer:
        attempt = issuer.begin("http://127.0.0.1:9/callback", oauth.EVERYTHING)
        came = {"code": "c", "state": attempt.state, "iss": issuer.name, **changed}
        with pytest.raises(failures.Failure, match=why):
            issuer.finish(attempt, came)
    assert "/oauth/acme/token" not in elsewhere.paths()


@pytest.mark.requirement("oauth:cli:mix-up")
def test_a_login_asks_with_a_challenge_and_shows_the_verifier_with_the_code(elsewhere: Elsewhere) -> None:
    with _issuer(elsewhere) as issuer:
        attempt = issuer.begin("http://127.0.0.1:9/callback", oauth.EVERYTHING)
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(attempt.address).query))
        tokens = issuer.finish(attempt, {"code": "c", "state": attempt.state, "iss": issuer.name})
    assert (tokens.access, tokens.refresh) == ("access-1", "refresh-1")
    assert asked["code_challenge_method"] == "S256"
    assert attempt.verifier not in attempt.address
    assert asked["resource"] == f"{elsewhere.url}/api/v1"
    path, form, credential = elsewhere.seen[-1]
    assert (path, credential) == ("/oauth/acme/token", None)
    assert form == {
        "client_id": "smcp-cli",
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "http://127.0.0.1:9/callback",
        "code_verifier": attempt.verifier,
        "resource": f"{elsewhere.url}/api/v1",
    }


@pytest.mark.requirement("oauth:cli:device")
def test_a_device_asks_more_slowly_when_it_is_told_to_and_ends_with_tokens(elsewhere: Elsewhere) -> None:
    started = {
        "device_code": "dc",
        "user_code": "BCDF-GHJK",
        "verification_uri": f"{elsewhere.url}/account/acme/device",
        "expires_in": 600,
        "interval": 2,
    }
    elsewhere.answers["/oauth/acme/device_authorization"] = [(200, started)]
    waiting = [(400, {"error": error}) for error in ("authorization_pending", "slow_down", "authorization_pending")]
    elsewhere.answers["/oauth/acme/token"] = waiting
    waits: list[float] = []
    with _issuer(elsewhere) as issuer:
        tokens = issuer.wait_for_device(issuer.ask_device(oauth.READING), waits.append)
    assert waits == [2, 2, 7, 7]  # RFC 8628, 3.5
    assert tokens.access == "access-1"
    assert elsewhere.seen[-1][1]["device_code"] == "dc"


@pytest.mark.requirement("oauth:cli:device")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        ("access_denied", "declined"),
        ("expired_token", "in time"),
        ("invalid_grant", "ended"),
        ("invalid_client", "refused"),
    ],
)
def test_a_device_stops_asking_when_it_is_over(elsewhere: Elsewhere, error: str, why: str) -> None:
    elsewhere.answers["/oauth/acme/token"] = [(400, {"error": error})]
    device = oauth.Device("dc", "X", f"{elsewhere.url}/d", f"{elsewhere.url}/d", 600, 5)
    with _issuer(elsewhere) as issuer, pytest.raises(failures.Failure, match=why):
        issuer.wait_for_device(device, lambda seconds: None)
    assert elsewhere.paths().count("/oauth/acme/token") == 1


def _ask(listener: loopback.Listener, target: str, host: str | None = None) -> int:
    connection = http.client.HTTPConnection(listener.host, timeout=30)
    connection.putrequest("GET", target, skip_host=True)
    connection.putheader("Host", host or listener.host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.requirement("oauth:cli:loopback")
def test_the_listener_takes_one_answer_with_its_state_and_nothing_else() -> None:
    good = "/callback?code=c&state=mine&iss=i"
    with loopback.Listener() as listener, concurrent.futures.ThreadPoolExecutor() as pool:
        assert _ask(listener, good) == 404  # nobody has begun
        came = pool.submit(listener.wait, "mine", 60.0)
        assert listener.waiting.wait(60.0)
        for target in ("/", "/callback", "/callback?state=other", "/callback?state=mine&state=mine", "/x?state=mine"):
            assert _ask(listener, target) == 404, target
        assert _ask(listener, good, "evil.example") == 400
        assert _ask(listener, good, f"localhost:{listener.host.partition(':')[2]}") == 400
        assert _ask(listener, good) == 200
        assert came.result() == {"code": "c", "state": "mine", "iss": "i"}


@pytest.mark.requirement("oauth:cli:loopback")
def test_nobody_who_finishes_the_login_is_not_waited_for_for_ever() -> None:
    with loopback.Listener() as listener, pytest.raises(failures.Failure, match="in time"):
        listener.wait("mine", 0.01)


def _saved(folder: pathlib.Path, url: str, expires: int) -> profiles.Profiles:
    known = profiles.Profiles(folder)
    known.save("acme", profiles.Profile(url, "acme", "", TOKENS._replace(expires=expires)))
    return known


@pytest.mark.requirement("oauth:cli:refresh")
@pytest.mark.parametrize("expires", [0, 2**40])
def test_a_login_is_renewed_when_it_has_ended_or_is_refused_and_the_new_one_is_kept(
    elsewhere: Elsewhere, tmp_path: pathlib.Path, expires: int
) -> None:
    known = _saved(tmp_path / "config", elsewhere.url, expires)
    refused = (401, {"error": {"code": "unauthenticated", "message": "no"}})
    elsewhere.answers["/api/v1/whoami"] = [refused] if expires else []
    with client.Client(profiles.choose(known, {}, named="acme"), known=known) as api:
        assert api.get("/api/v1/whoami") == {"ok": True}
    shown = [credential for path, _, credential in elsewhere.seen if path == "/api/v1/whoami"]
    assert shown == [*(["Bearer access-0"] if expires else []), "Bearer access-1"]
    kept = known.load()["acme"].tokens
    assert kept is not None
    assert (kept.access, kept.refresh) == ("access-1", "refresh-1")
    # The issuer never sees the admin API's credential.
    assert {credential for path, _, credential in elsewhere.seen if path.startswith("/oauth")} == {None}


@pytest.mark.requirement("oauth:cli:refresh")
def test_a_login_that_stays_refused_is_not_renewed_again_and_again(
    elsewhere: Elsewhere, tmp_path: pathlib.Path
) -> None:
    known = _saved(tmp_path / "config", elsewhere.url, 2**40)
    refused = (401, {"error": {"code": "unauthenticated", "message": "no"}})
    elsewhere.answers["/api/v1/whoami"] = [refused] * 5
    with (
        client.Client(profiles.choose(known, {}, named="acme"), known=known) as api,
        pytest.raises(failures.Failure, match="login of profile 'acme'") as failed,
    ):
        api.get("/api/v1/whoami")
    assert "smcp login" in failed.value.hint
    assert elsewhere.paths().count("/oauth/acme/token") == 1
    assert elsewhere.paths().count("/api/v1/whoami") == 2


def _renew(folder: pathlib.Path, url: str) -> str:
    known = profiles.Profiles(folder)
    chosen = profiles.choose(known, {}, named="acme")
    with client.Client(chosen, known=known) as api:
        api.get("/api/v1/whoami")
    kept = known.load()["acme"].tokens
    return kept.access if kept else ""


@pytest.mark.requirement("oauth:cli:refresh")
def test_commands_that_race_use_a_refresh_token_once(elsewhere: Elsewhere, tmp_path: pathlib.Path) -> None:
    _saved(tmp_path / "config", elsewhere.url, 0)
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        used = pool.starmap(_renew, [(tmp_path / "config", elsewhere.url)] * 8)
    assert set(used) == {"access-1"}
    spent = [form["refresh_token"] for path, form, _ in elsewhere.seen if path == "/oauth/acme/token"]
    assert spent == ["refresh-0"]


@pytest.mark.requirement("oauth:cli:another-platform")
@pytest.mark.parametrize("expires", [0, 2**40])
@pytest.mark.parametrize("tenant", ["acme", "globex"])
def test_a_hostile_platform_that_says_401_gets_no_token_of_another_one_whose_login_took_the_profiles_name(
    elsewhere: Elsewhere, tmp_path: pathlib.Path, expires: int, tenant: str
) -> None:
    """Only the tenant differs in one case: its tokens are not its neighbour's to see, either."""
    known = _saved(tmp_path / "config", elsewhere.url, expires)
    elsewhere.answers["/api/v1/whoami"] = [(401, {"error": {"code": "unauthenticated", "message": "no"}})] * 5
    with _listening() as honest:
        url = honest.url if tenant == "acme" else elsewhere.url
        theirs = profiles.Profile(url, tenant, "", profiles.Tokens("secret-access", "secret-refresh", 2**40))
        with client.Client(profiles.choose(known, {}, named="acme"), known=known) as api:
            known.save("acme", theirs)
            with pytest.raises(failures.Failure, match=f"tenant {tenant} at {url} by now"):
                api.get("/api/v1/whoami")
    assert "secret" not in repr(elsewhere.seen)
    assert "/oauth/acme/token" not in elsewhere.paths()
    assert known.load() == {"acme": theirs}


@pytest.mark.requirement("oauth:cli:refresh")
def test_a_body_that_is_sent_piece_by_piece_is_sent_once(elsewhere: Elsewhere, tmp_path: pathlib.Path) -> None:
    known = _saved(tmp_path / "config", elsewhere.url, 2**40)
    elsewhere.answers["/api/v1/uploads"] = [(401, {"error": {"code": "unauthenticated", "message": "no"}})]
    with (
        client.Client(profiles.choose(known, {}, named="acme"), known=known) as api,
        pytest.raises(failures.Failure, match="refused"),
    ):
        api.send("/api/v1/uploads", iter([b"piece", b"piece"]), size=10)
    assert elsewhere.paths() == ["/api/v1/uploads"]


@pytest.mark.requirement("oauth:cli:logout")
def test_logging_out_ends_the_login_there_and_here(
    elsewhere: Elsewhere, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    known = _saved(tmp_path / "config", elsewhere.url, 2**40)
    assert main.run(["logout", "--tenant", "acme", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"profile": "acme", "revoked": True}
    path, form, _ = elsewhere.seen[-1]
    assert (path, form["token"]) == ("/oauth/acme/revoke", "refresh-0")
    assert known.load() == {}


@pytest.mark.requirement("oauth:cli:logout")
def test_a_login_that_cannot_be_ended_there_is_forgotten_here_only_on_demand(
    elsewhere: Elsewhere, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    known = _saved(tmp_path / "config", elsewhere.url, 2**40)
    elsewhere.answers["/oauth/acme/revoke"] = [(503, {"error": "temporarily_unavailable"})] * 2
    assert main.run(["logout", "--profile", "acme"]) == failures.Exit.REFUSED
    assert "--forget" in capsys.readouterr().err
    assert known.load() != {}
    assert main.run(["logout", "--profile", "acme", "--forget", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["revoked"] is False
    assert known.load() == {}


@pytest.mark.requirement("oauth:cli:profile")
def test_a_login_never_takes_the_place_of_another_profile(
    elsewhere: Elsewhere, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    known = profiles.Profiles(tmp_path / "config")
    known.save("acme", profiles.Profile(elsewhere.url, "acme", "smcp_acme_key"))
    started = {
        "device_code": "dc",
        "user_code": "X",
        "verification_uri": f"{elsewhere.url}/d",
        "expires_in": 60,
        "interval": 1,
    }
    elsewhere.answers["/oauth/acme/device_authorization"] = [(200, started)]
    order = ["login", elsewhere.url, "--tenant", "acme", "--device", "--json"]
    assert main.run([*order, "--save-profile", "acme"]) == failures.Exit.USAGE
    assert elsewhere.seen == []
    assert main.run(order) == 0
    assert sorted(known.load()) == ["acme", "acme-2"]
    assert known.load()["acme"].key == "smcp_acme_key"


@pytest.mark.requirement("oauth:cli:profile")
def test_a_login_survives_writing_and_reading_and_is_never_shown(tmp_path: pathlib.Path) -> None:
    known = profiles.Profiles(tmp_path / "config")
    kept = profiles.Profile("https://smcp.example", "acme", "", profiles.Tokens("secret.a", "secret_r", 1_800_000_000))
    known.save("acme", kept)
    assert known.load() == {"acme": kept}
    assert "secret" not in repr(kept) + repr(kept.tokens) + repr(profiles.choose(known, {}, named="acme"))


@pytest.mark.requirement("oauth:cli:profile")
@pytest.mark.parametrize(
    "fields",
    [
        'access = "a"\nrefresh = "r"\n',
        'access = "a"\nrefresh = "r"\nexpires = "1"\n',
        'access = "a"\nrefresh = "r"\nexpires = true\n',
        'access = "a"\nexpires = 1\n',
        'key = "k"\naccess = "a"\nrefresh = "r"\nexpires = 1\n',
    ],
)
def test_a_profile_that_is_half_a_login_is_refused(tmp_path: pathlib.Path, fields: str) -> None:
    known = profiles.Profiles(tmp_path)
    known.file.touch(mode=0o600)
    known.file.write_text(f'[acme]\nurl = "http://x"\ntenant = "acme"\n{fields}')
    with pytest.raises(failures.Failure, match="exactly the texts"):
        known.load()


@pytest.mark.requirement("oauth:cli:refresh")
def test_a_renewal_that_fails_leaves_the_file_as_it_was(tmp_path: pathlib.Path) -> None:
    known = _saved(tmp_path / "config", "http://127.0.0.1:1", 0)
    before = known.file.read_bytes()
    issuer = oauth.Issuer(httpx2.Client(base_url="http://127.0.0.1:1"), "http://127.0.0.1:1", "acme")
    renewed = bearer.Renewed(profiles.choose(known, {}, named="acme"), known, issuer)
    flow: Callable[..., Any] = renewed.auth_flow
    with pytest.raises(httpx2.ConnectError):
        next(flow(httpx2.Request("GET", "http://127.0.0.1:1/")))
    assert known.file.read_bytes() == before
