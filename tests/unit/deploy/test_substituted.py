"""Secrets that are written into requests: how a manifest says so, and what it can't say."""

import pytest

from smcp.deploy import manifest
from smcp.kernel import errors

_WORKER = '[worker]\nmain = "index.js"\ncompatibility_date = "2026-11-01"\n'
_EGRESS = 'egress = ["api.example.com", "*.example.net:8443", "192.0.2.7:443"]\n'


@pytest.mark.requirement("workers:substitution:manifest")
@pytest.mark.parametrize(
    "kind",
    [
        "substituted",
        "substituted:api.example.com",
        "substituted:API.example.com:443, a.example.net:8443,*.example.net:8443",
        "substituted:192.0.2.7",
    ],
)
def test_a_secret_may_be_for_every_host_of_the_egress_or_for_some(kind: str) -> None:
    found = manifest.parse(f'{_EGRESS}secrets = {{TOKEN = "{kind}"}}\n{_WORKER}')
    assert found.secrets == {"TOKEN": kind}


@pytest.mark.requirement("workers:substitution:manifest")
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('secrets = {TOKEN = "substituted"}', "no egress"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:"}', "secrets"),
        (_EGRESS + 'secrets = {TOKEN = "substitute"}', "secrets"),
        (_EGRESS + 'secrets = {TOKEN = "env:api.example.com"}', "secrets"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:other.example.com"}', "other.example.com:443, which is not in"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:api.example.com:80"}', "api.example.com:80, which is not in"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:*.example.com"}', "which is not in"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:api.example.com,"}', "wrong"),
        (_EGRESS + 'secrets = {TOKEN = "substituted:https://api.example.com/"}', "wrong"),
    ],
)
def test_a_secret_for_a_host_that_is_not_reached_is_refused(text: str, told: str) -> None:
    with pytest.raises(errors.InvalidParams) as caught:
        manifest.parse(f"{text}\n{_WORKER}")
    assert told in caught.value.public
