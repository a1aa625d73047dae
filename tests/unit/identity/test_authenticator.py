"""The Authorization header: one grammar, one token, default deny."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.access import policy
from smcp.identity import authenticator, roles
from smcp.identity.authn import api_key, base, key_text
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.tenancy import tenants as tenancy

ACME = ids.tenant("acme")


@pytest.fixture
async def key(store: stores.Store) -> tuple[authenticator.Authenticator, str]:
    """An authenticator as it is wired, and a valid key."""
    tenants = tenancy.Tenants(store, clock.SystemClock())
    await tenants.create("acme")
    keys = api_key.ApiKeys(store, tenants.active, clock.SystemClock(), roles.Roles(store, clock.SystemClock()))
    issued = await keys.create(ACME, [policy.Role.MCP_USER], "", expires_in_s=None)
    return authenticator.Authenticator((keys,)), issued.text


@pytest.mark.requirement("identity:header:grammar")
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR  "])
async def test_the_scheme_is_case_insensitive_and_followed_by_spaces(
    key: tuple[authenticator.Authenticator, str], scheme: str
) -> None:
    asked, text = key
    assert (await asked.authenticate(scheme + text)).tenant == ACME


@pytest.mark.requirement("identity:header:grammar")
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "Bearer",
        "Bearer ",
        "Bearer{}",
        " Bearer {}",
        "Bearer {} ",
        "Bearer\t{}",
        "Bearer {}\n",
        "Bearer {}, Bearer {}",
        "Bearer {},{}",
        "Bearer {} {}",
        "Bearer token={}",
        'Bearer "{}"',
        "Basic {}",
        "Token {}",
        "Bearer: {}",
        "Bearer=={}",
        "Ｂearer {}",
        "Bearer {}\0",
    ],
)
async def test_everything_else_is_refused(key: tuple[authenticator.Authenticator, str], form: str) -> None:
    asked, text = key
    with pytest.raises(errors.Unauthenticated) as refused:
        await asked.authenticate(form.replace("{}", text))
    assert refused.value.detail == base.Reason.MALFORMED


@pytest.mark.requirement("identity:header:default-deny")
async def test_no_header_an_unknown_form_and_an_endless_one_are_refused(
    key: tuple[authenticator.Authenticator, str],
) -> None:
    asked, text = key
    for header in (
        None,
        "",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        "Bearer " + "a" * 100_000,
        "Bearer " + " " * 9000 + text,
    ):
        with pytest.raises(errors.Unauthenticated):
            await asked.authenticate(header)


@pytest.mark.requirement("identity:header:default-deny")
async def test_without_methods_nobody_is_let_in() -> None:
    with pytest.raises(errors.Unauthenticated):
        await authenticator.Authenticator(()).authenticate("Bearer smcp_acme_x")


@pytest.mark.requirement("identity:header:default-deny")
@given(header=st.one_of(st.text(max_size=60), st.text(max_size=60).map("Bearer {}".format)))
async def test_no_random_header_is_let_in(header: str) -> None:
    with pytest.raises(errors.Unauthenticated):
        await authenticator.Authenticator(()).authenticate(header)


@pytest.mark.requirement("identity:refusal:alike")
async def test_every_refusal_looks_the_same_to_the_caller(key: tuple[authenticator.Authenticator, str]) -> None:
    asked, text = key
    unknown_id = key_text.compose(ACME, key_text.new_id(), key_text.new_secret())
    unknown_tenant = key_text.compose(ids.tenant("umbra"), key_text.new_id(), key_text.new_secret())
    parsed = key_text.parse(text)
    assert parsed is not None
    wrong_secret = key_text.compose(ACME, parsed.id, key_text.new_secret())
    seen: set[tuple[str, int, str, str]] = set()
    for credential in (text[:-1], unknown_id, unknown_tenant, wrong_secret, "smcp_", "other"):
        with pytest.raises(errors.Unauthenticated) as refused:
            await asked.authenticate(f"Bearer {credential}")
        error = refused.value
        seen.add((error.code, error.http_status, error.public, repr((error.data, error.headers))))
    assert len(seen) == 1
