"""Sealed tickets: they open once more in the same browser, for the same step, for a while, and nowhere else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smcp.kernel import clock, crypto, errors, ids
from smcp.web import tickets

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
KEPT = tickets.Kept(tickets.Place.AUTHORIZE, "client_id=a&state=b%3Cc", ("https://app.example",), "name", "step")


def key(tenant: ids.TenantId, purpose: str) -> bytes:
    return crypto.hkdf(b"k" * 32, f"{tenant}:{purpose}")


@pytest.fixture
def time() -> clock.FrozenClock:
    return clock.FrozenClock()


@pytest.fixture
def made(time: clock.FrozenClock) -> tickets.Tickets:
    return tickets.Tickets(key, time)


@pytest.mark.requirement("oauth:pages:request-kept")
def test_a_ticket_opens_in_the_browser_and_for_the_step_that_it_was_made_for(made: tickets.Tickets) -> None:
    text = made.seal(ACME, tickets.Step.SIGN_IN, "browser:a", KEPT)
    assert made.open(ACME, tickets.Step.SIGN_IN, "browser:a", text) == KEPT
    assert "client_id" not in text


@pytest.mark.requirement("oauth:pages:request-kept")
@pytest.mark.parametrize(
    ("tenant", "step", "holder"),
    [
        (UMBRA, tickets.Step.SIGN_IN, "browser:a"),
        (ACME, tickets.Step.CONSENT, "browser:a"),
        (ACME, tickets.Step.SIGN_IN, "browser:b"),
        (ACME, tickets.Step.SIGN_IN, "session:a"),
    ],
)
def test_a_ticket_is_refused_for_another_tenant_step_or_browser(
    made: tickets.Tickets, tenant: ids.TenantId, step: tickets.Step, holder: str
) -> None:
    text = made.seal(ACME, tickets.Step.SIGN_IN, "browser:a", KEPT)
    with pytest.raises(errors.BadRequest):
        made.open(tenant, step, holder, text)


@pytest.mark.requirement("oauth:pages:request-kept")
def test_a_ticket_ends(made: tickets.Tickets, time: clock.FrozenClock) -> None:
    text = made.seal(ACME, tickets.Step.SIGN_IN, "browser:a", KEPT)
    time.advance(tickets.LIVES_S - 1)
    assert made.open(ACME, tickets.Step.SIGN_IN, "browser:a", text) == KEPT
    time.advance(1)
    with pytest.raises(errors.BadRequest):
        made.open(ACME, tickets.Step.SIGN_IN, "browser:a", text)


@pytest.mark.requirement("oauth:pages:request-kept")
@given(st.text(max_size=200))
@settings(deadline=None)
def test_nothing_that_a_stranger_writes_is_a_ticket(text: str) -> None:
    with pytest.raises(errors.BadRequest):
        tickets.Tickets(key, clock.FrozenClock()).open(ACME, tickets.Step.SIGN_IN, "browser:a", text)


@pytest.mark.requirement("oauth:pages:no-open-redirect")
@pytest.mark.parametrize("place", tickets.Place)
def test_where_a_person_goes_on_is_always_a_path_of_ours(place: tickets.Place) -> None:
    assert place.path(ACME).startswith(("/account/acme", "/oauth/acme/authorize"))
