"""Nothing that looks like a credential leaves, and no text can forge a line."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import redact

KEY = "smcp_acme_0k3v9q2m7x5c8b1n4z6a0s2d4f6g8h"


class Credential(msgspec.Struct):
    """A Struct whose author forgot to hide the secret."""

    owner: str
    secret: str


@pytest.mark.requirement("kernel:redact:text")
@pytest.mark.parametrize(
    ("line", "secret"),
    [
        (f"refused {KEY} for tools/call", KEY[10:]),
        ("Authorization: Bearer c2VjcmV0LXRva2Vu", "c2VjcmV0LXRva2Vu"),
        ("basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln back", "eyJzdWIiOiJhIn0"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----", "MHcCAQEE"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEE cut off", "MHcCAQEE"),
        ("https://user:hunter2hunter2@example.test/simple", "hunter2hunter2"),
        ('{"access_token": "abcdef123"}', "abcdef123"),
        ("GITHUB_TOKEN=ghp_abcdef123", "ghp_abcdef123"),
        ("password: correct-horse", "correct-horse"),
    ],
)
def test_text_that_looks_like_a_credential_loses_it(line: str, secret: str) -> None:
    safe = redact.text(line, lines=True)
    assert secret not in safe
    assert redact.GONE in safe


@pytest.mark.requirement("kernel:redact:text")
@pytest.mark.parametrize(
    "line",
    [
        "tools/call echo for acme/time took 3 ms",
        "progressToken 7 of deployment dep-01h",
        "the tokenizer needs 4096 tokens",
        "http://127.0.0.1:8080/t/acme/time/mcp",
        "smcp_http_requests_total 7",
    ],
)
def test_text_without_a_credential_stays_as_it_is(line: str) -> None:
    assert redact.text(line) == line


@pytest.mark.requirement("kernel:redact:text")
@given(st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyz", min_size=20, max_size=60), st.text(max_size=40))
def test_a_key_is_found_wherever_it_stands(tail: str, around: str) -> None:
    assert tail not in redact.text(f"{around} smcp_acme_{tail} {around}").replace(around, "")


@pytest.mark.requirement("kernel:redact:names")
@pytest.mark.parametrize(
    "name",
    [
        *("password", "Authorization", "client_secret", "api-key", "apiKey", "API_KEY", "token", "access_token"),
        *("refreshToken", "cookie", "Set-Cookie", "private_key", "root_key", "Mcp-Session-Id"),
    ],
)
def test_a_value_under_a_secret_name_is_dropped_whatever_it_looks_like(name: str) -> None:
    assert redact.mapping({name: "plain"}) == {name: redact.GONE}
    assert redact.value([{"deep": ({name: ["plain"]},)}]) == [{"deep": [{name: redact.GONE}]}]


@pytest.mark.requirement("kernel:redact:names")
@pytest.mark.parametrize("name", ["key_id", "keys", "tokens", "tenant", "progress_token_count", "monkey"])
def test_a_harmless_name_keeps_its_value(name: str) -> None:
    assert redact.mapping({name: "plain"}) == {name: "plain"}


@pytest.mark.requirement("kernel:redact:names")
def test_structs_and_exceptions_are_walked() -> None:
    assert redact.value(Credential(owner="ada", secret="plain")) == {"owner": "ada", "secret": redact.GONE}
    assert redact.value(ValueError(f"no {KEY}")) == "no smcp_acme_[redacted]"
    assert redact.value(b"raw bytes") == "<9 bytes>"


@pytest.mark.requirement("kernel:redact:forging")
@given(st.text(max_size=200))
def test_no_text_can_make_a_second_line_or_drive_a_terminal(line: str) -> None:
    safe = redact.text(line)
    assert len(safe.splitlines()) <= 1
    assert not any(ord(letter) < 32 and letter != "\t" for letter in safe)
    assert "\x1b" not in redact.text(line, lines=True)


@pytest.mark.requirement("kernel:redact:bounds")
def test_what_is_endless_is_cut() -> None:
    nested: list[object] = []
    nested.append(nested)
    assert "…" in str(redact.value(nested))
    assert len(redact.text("x" * 1_000_000)) < 10_000
    assert len(redact.value(list(range(10_000)))) <= 200
