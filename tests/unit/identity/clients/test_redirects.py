"""Redirect URIs: what a client may have, and when one is another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.identity.oauth import redirects, refusals


@pytest.mark.requirement("oauth:redirect:taken")
@pytest.mark.parametrize(
    "uri",
    [
        "https://app.example/callback", "https://app.example", "https://app.example:8443/cb?x=1", "https://[2001:db8::1]/cb",
        "http://127.0.0.1/callback", "http://127.0.0.1:5555/callback", "http://localhost:33418/", "http://[::1]:1/cb",
        "http://localhost", "com.example.app:/oauth2redirect", "com.example.app://callback",
        "cursor://anysphere.cursor-retrieval/oauth/callback", "vscode://vscode.github/redirect",
    ],
)  # fmt: skip
def test_what_real_clients_register_is_taken(uri: str) -> None:
    redirects.check(uri)


@pytest.mark.requirement("oauth:redirect:refused", "attack:oauth:redirect-schemes")
@pytest.mark.parametrize(
    "uri",
    [
        "", "/callback", "app.example/cb", "//app.example/cb", "javascript:alert(1)", "JavaScript:alert(1)",
        "java\tscript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "blob:https://a.example/x",
        "about:blank", "view-source:https://a.example", "ftp://a.example/", "ws://a.example/", "chrome://settings",
        "ms-settings:x", "intent://x#Intent;end", "http://app.example/cb", "http://127.0.0.2/cb", "http://127.1/cb",
        "http://2130706433/cb", "http://0.0.0.0/cb", "http://localhost.evil.example/cb", "http://localhost@evil.example/",
        "http://127.0.0.1:99999/cb", "http://[::ffff:127.0.0.1]/cb", "https://user@app.example/cb",
        "https://user:pw@app.example/cb", "https://app.example/cb#fragment", "https://app.example/cb#",
        "https://app.example\\@evil.example/", "https://app.example /cb", "https://app.example/c b", "https://ünï.example/",
        "https://", "https:///cb", "https:app.example", "https://app.example:0/", "https://app.example:port/",
        "HTTPS://app.example/cb", "https://app.example/\r\nLocation: x", "https://app.example/\x00",
        "https://app.example/<script>", 'https://app.example/"', "cursor:callback", "unknown://callback",
        "com.example.app:x", "com.example.app:///x", "https://app.example/" + "x" * 1024,
    ],
)  # fmt: skip
def test_a_uri_that_runs_code_leads_nowhere_or_has_two_readings_is_refused(uri: str) -> None:
    with pytest.raises(refusals.Refused) as refused:
        redirects.check(uri)
    assert refused.value.code == refusals.INVALID_REDIRECT_URI
    # Nothing of it is repeated: the answer may be shown on a page.
    assert "evil.example" not in refused.value.description


@pytest.mark.requirement("oauth:redirect:exact", "attack:oauth:open-redirect")
@pytest.mark.parametrize(
    "asked",
    [
        "https://app.example/callback/", "https://app.example/callback?x=1", "https://app.example/Callback",
        "https://APP.example/callback", "https://app.example:443/callback", "https://app.example/callback/../evil",
        "https://app.example/call%62ack", "http://app.example/callback", "https://app.example.evil.example/callback",
        "https://evil.example/https://app.example/callback", "https://app.example@evil.example/callback",
        "https://app.example/callback#x", "https://app.example/callback%0d%0a", " https://app.example/callback", "",
    ],
)  # fmt: skip
def test_a_uri_is_the_same_character_by_character_or_another(asked: str) -> None:
    known = ("https://app.example/callback",)
    assert redirects.matches(known, known[0])
    assert not redirects.matches(known, asked)


@pytest.mark.requirement("oauth:redirect:loopback", "quirk:08:loopback")
@given(port=st.integers(1, 65535), host=st.sampled_from(["127.0.0.1", "[::1]", "localhost"]))
def test_the_port_of_a_loopback_uri_is_whichever_the_client_got(port: int, host: str) -> None:
    for known in (f"http://{host}/cb", f"http://{host}:1234/cb"):
        assert redirects.matches((known,), f"http://{host}:{port}/cb")
        assert redirects.is_loopback(f"http://{host}:{port}/cb")
        assert not redirects.matches((known,), f"http://{host}:{port}/other")
        assert not redirects.matches((known,), f"https://{host}:{port}/cb")
        assert not redirects.matches((known,), f"http://{host}.evil.example:{port}/cb")
        assert not redirects.matches((known,), f"http://{host}:{port}@evil.example/cb")


@pytest.mark.requirement("oauth:redirect:loopback")
def test_one_name_of_loopback_is_not_another() -> None:
    # What listens at [::1] need not be what listens at 127.0.0.1.
    assert not redirects.matches(("http://127.0.0.1/cb",), "http://localhost:1/cb")
    assert not redirects.matches(("http://[::1]/cb",), "http://127.0.0.1:1/cb")
    assert not redirects.matches(("https://app.example/cb",), "https://app.example:8443/cb")


@pytest.mark.requirement("oauth:redirect:answer")
@pytest.mark.parametrize(
    ("uri", "led"),
    [
        ("https://a.example/cb", "https://a.example/cb?state=a%20%26%3D%23%0A%C3%A9&iss=https%3A%2F%2Fx"),
        ("https://a.example/cb?k=v", "https://a.example/cb?k=v&state=a%20%26%3D%23%0A%C3%A9&iss=https%3A%2F%2Fx"),
        ("https://a.example/cb?", "https://a.example/cb?state=a%20%26%3D%23%0A%C3%A9&iss=https%3A%2F%2Fx"),
    ],
)
def test_an_answer_goes_behind_the_query_that_is_there_and_can_add_no_field(uri: str, led: str) -> None:
    assert redirects.answer(uri, [("state", "a &=#\né"), ("iss", "https://x")]) == led


@pytest.mark.requirement("oauth:redirect:taken")
def test_a_client_has_some_of_them_each_once() -> None:
    one = "https://app.example/callback"
    assert redirects.check_all([one, one]) == (one,)
    for uris in ([], [f"{one}/{number}" for number in range(redirects.MOST + 1)]):
        with pytest.raises(refusals.Refused):
            redirects.check_all(uris)
