"""Who has an account can't be told by time: the form for signing in, over the wire, with and without an account."""

import pathlib
import statistics
import time

import pytest

from support import idp, visitors
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(300)]

_PEOPLE = 4
_EACH = 8
"""Wrong passwords for one address: fewer than an account's window takes (ten), so that each is looked at."""
_CLOSE = 0.6
"""A refusal without argon2 takes a few hundredths of one with it; two medians of the same differ by some hundredths."""


async def _refused(platform: Platform, email: str) -> float:
    """Seconds until a wrong password for `email` is refused, from a browser and an address of its own."""
    async with visitors.Visitor(platform.base_url, "acme", email, "a wrong password that is long") as visitor:
        page = await visitor.open("/account/acme/login")
        shown = visitors.form(page, "/login")
        began = time.perf_counter()
        answer = await visitor.post(shown, {"email": email, "password": visitor.password})
        took = time.perf_counter() - began
    assert answer.status_code == 403, answer.text
    return took


@pytest.mark.requirement("oauth:proof:unknown-users")
async def test_timing_of_unknown_users_an_address_without_an_account_takes_as_long_to_refuse(
    tmp_path: pathlib.Path,
) -> None:
    with Platform(tmp_path, {"SMCP_GATEWAY_TRUSTED_PROXIES": "127.0.0.1/32"}) as platform:
        platform.create_tenant("acme")
        known, unknown = ([f"{kind}{number}@acme.example" for number in range(_PEOPLE)] for kind in "au")
        for email in known:
            async with await idp.invite(platform, "acme", email, "mcp_user"):
                pass
        for email in ("warm@acme.example", known[0]):
            await _refused(platform, email)
        took: dict[bool, list[float]] = {True: [], False: []}
        for number in range(_PEOPLE * _EACH):
            # Alternately, the one first and then the other: what the machine does meanwhile meets both.
            for has in (True, False) if number % 2 else (False, True):
                took[has].append(await _refused(platform, (known if has else unknown)[number % _PEOPLE]))
    with_account, without = (statistics.median(took[has]) for has in (True, False))
    assert min(with_account, without) > _CLOSE * max(with_account, without), took
