"""Names and ids: one grammar that nothing slips through."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.kernel import clock, errors, ids

_ALLOWED = string.ascii_lowercase + string.digits + "-"


@pytest.mark.requirement("kernel:ids:grammar")
@pytest.mark.parametrize("name", ["a", "acme", "a-b-c", "0", "x" * 30])
def test_good_names_pass(name: str) -> None:
    assert ids.tenant(name) == name
    assert ids.server(name) == name


@pytest.mark.requirement("kernel:ids:grammar")
@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "a--b", "A", "a_b", "a.b", "a/b", "../a", "a b", "a\n", "é", "\uff41", "a%2e", "x" * 32, "\u0661"],
)
def test_bad_names_are_refused_with_a_text_that_says_the_rule(name: str) -> None:
    for check in (ids.tenant, ids.server):
        with pytest.raises(errors.BadName, match="lower-case letters, digits and single hyphens"):
            check(name)


@pytest.mark.requirement("kernel:ids:grammar")
@given(st.text(alphabet=_ALLOWED, max_size=40), st.text(alphabet=_ALLOWED, max_size=40))
def test_a_host_label_of_two_names_separates_in_one_way_and_fits(server: str, tenant: str) -> None:
    try:
        label = f"{ids.server(server)}--{ids.tenant(tenant)}"
    except errors.BadName:
        return
    assert label.split("--") == [server, tenant]
    assert len(label) <= 63


@pytest.mark.requirement("kernel:ids:grammar")
def test_an_error_repeats_only_the_beginning_of_an_endless_name() -> None:
    with pytest.raises(errors.BadName) as refused:
        ids.server("X" * 100_000)
    assert len(refused.value.public) < 250


@pytest.mark.requirement("kernel:ids:reserved")
@pytest.mark.parametrize("name", ["platform", "smcp", "api", "admin", "www", "t"])
def test_reserved_names_are_nobodys(name: str) -> None:
    with pytest.raises(errors.BadName, match="reserved"):
        ids.tenant(name)


@pytest.mark.requirement("kernel:ids:reserved")
def test_a_credential_may_name_the_platform_and_nothing_else_reserved() -> None:
    assert ids.any_tenant("platform") == ids.PLATFORM
    with pytest.raises(errors.BadName):
        ids.any_tenant("admin")


@pytest.mark.requirement("kernel:ids:new")
def test_ids_are_unique_and_sort_by_time() -> None:
    before = ids.base32((int(clock.SystemClock().now() * 1000) - 1) << 80, 26)
    made = [ids.new("dep") for _ in range(2000)]
    after = ids.base32((int(clock.SystemClock().now() * 1000) + 1) << 80, 26)
    assert len(set(made)) == len(made)
    assert all(before < one.removeprefix("dep-") < after for one in made)


@pytest.mark.requirement("kernel:ids:new")
@given(st.integers(0, 2**130 - 1), st.integers(0, 2**130 - 1))
def test_base_32_keeps_the_order_of_numbers(one: int, other: int) -> None:
    assert (one < other) == (ids.base32(one, 26) < ids.base32(other, 26))


@pytest.mark.requirement("kernel:ids:token")
@pytest.mark.parametrize("bits", [128, 256])
def test_tokens_have_the_entropy_asked_for_and_do_not_repeat(bits: int) -> None:
    made = {ids.token(bits) for _ in range(2000)}
    assert len(made) == 2000
    assert all(len(one) * 6 >= bits and one.isascii() and one.isprintable() for one in made)
    # Every character of the alphabet occurs at every place sooner or later; a counter or a clock would not do that.
    assert all(len({one[place] for one in made}) > 40 for place in range(bits // 6 - 1))
