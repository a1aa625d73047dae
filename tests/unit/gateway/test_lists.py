"""What is kept of lists and reads: for whom, how long, how much."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.gateway import lists
from smcp.kernel import clock, ids, jsonrpc, observe

EDITIONS = [object(), object()]
PEOPLE = ["ann", "bob"]
ABLE: list[jsonrpc.Json] = [{}, {"sampling": {}}]


def _key(**other: object) -> lists.Key:
    usual = lists.Key(
        ids.TenantId("acme"), ids.ServerName("files"), "dep-1", "policy", EDITIONS[0], "2026-07-28", "tools/list",
        lists.digest({}), "",
    )  # fmt: skip
    return usual._replace(**other)


def _answer(size: int = 10, **members: object) -> bytes:
    told = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "private", "tools": "x" * size, **members}
    return jsonrpc.encode({name: value for name, value in told.items() if value is not None})


@pytest.fixture
def now() -> clock.FrozenClock:
    return clock.FrozenClock()


@pytest.fixture
def kept(now: clock.FrozenClock) -> lists.Lists:
    return lists.Lists(now, observe.Metrics("test"))


def _keep(kept: lists.Lists, key: lists.Key, whose: str, answer: bytes, *, private: bool = False) -> None:
    ticket = lists.Ticket(kept, key, whose, private=private, legacy=False)
    ticket.keep(key.edition, answer)


keys = st.builds(
    lists.Key,
    tenant=st.sampled_from(["acme", "umbra"]).map(ids.TenantId),
    server=st.sampled_from(["files", "time"]).map(ids.ServerName),
    deployment=st.sampled_from(["dep-1", "dep-2"]),
    policy=st.sampled_from(["p1", "p2"]),
    edition=st.sampled_from(EDITIONS),
    version=st.sampled_from(["2026-07-28", "2025-11-25"]),
    method=st.sampled_from(["tools/list", "resources/read"]),
    asked=st.builds(
        lists.digest,
        st.fixed_dictionaries({}, optional={"cursor": st.sampled_from("ab"), "uri": st.sampled_from("ab")}),
        st.sampled_from(ABLE),
    ),
    whose=st.just(""),
)


@pytest.mark.requirement("gateway:lists:apart", "attack:cache:cross-tenant")
@given(keys, keys, st.sampled_from(PEOPLE), st.sampled_from(PEOPLE), st.booleans(), st.booleans())
def test_an_answer_is_for_who_asks_the_same_of_the_same_and_no_other(
    asked: lists.Key, later: lists.Key, one: str, other: str, public: bool, apart: bool
) -> None:
    kept = lists.Lists(clock.FrozenClock(), observe.Metrics("test"))
    scope = "public" if public else "private"
    _keep(kept, asked, one, _answer(cacheScope=scope, of=repr(asked)), private=apart)
    found = kept.find(later, other, private=apart)
    same = asked == later and (one == other or (public and not apart))
    assert (found is not None) == same
    if found is not None:
        assert msgspec.json.decode(found)["of"] == repr(asked)


_OTHERS: dict[str, object] = {
    "tenant": ids.TenantId("umbra"),
    "server": ids.ServerName("time"),
    "deployment": "dep-2",
    "policy": "another",
    "edition": EDITIONS[1],
    "version": "2025-11-25",
    "method": "prompts/list",
    "asked": lists.digest({"cursor": "1"}),
}


@pytest.mark.requirement("gateway:lists:apart", "attack:cache:cross-tenant")
@pytest.mark.parametrize("part", [part for part in lists.Key._fields if part != "whose"])
def test_each_part_of_the_key_alone_keeps_answers_apart(kept: lists.Lists, part: str) -> None:
    """ContextForge 6959. Above, two keys seldom differ in one part only: a part that is forgotten may go unseen."""
    _keep(kept, _key(), "ann", _answer(cacheScope="public"))
    assert kept.find(_key(**{part: _OTHERS[part]}), "ann") is None
    assert kept.find(_key(), "ann") is not None


@pytest.mark.requirement("gateway:lists:apart")
def test_what_may_change_an_answer_counts_and_tokens_traces_and_names_do_not() -> None:
    first = lists.digest({"cursor": "1", "_meta": {"progressToken": 1, "traceparent": "x"}}, ABLE[0])
    assert first == lists.digest({"_meta": {}, "cursor": "1"}, ABLE[0])
    named = {"io.modelcontextprotocol/clientInfo": {"name": "a"}, "tracestate": "t", "baggage": "b"}
    assert first == lists.digest({"_meta": named, "cursor": "1"}, ABLE[0])
    assert first != lists.digest({"_meta": {"com.example/project": "x"}, "cursor": "1"}, ABLE[0])
    assert first != lists.digest({"_meta": {"io.modelcontextprotocol/logLevel": "debug"}, "cursor": "1"}, ABLE[0])
    # What a bridged client says itself gives way to its session's stamp, as on the way to the server.
    own, stamp = {"able": "much"}, {"able": "little"}
    assert lists.digest({"_meta": own}, stamp) == lists.digest({}, stamp) != lists.digest({"_meta": own})
    assert first != lists.digest({"cursor": 1}, ABLE[0])
    assert first != lists.digest({"cursor": "1", "more": None}, ABLE[0])
    assert first != lists.digest({"cursor": "1"}, ABLE[1])


@pytest.mark.requirement("gateway:lists:ttl")
def test_an_answer_is_good_for_as_long_as_it_says_and_tells_what_is_left(
    kept: lists.Lists, now: clock.FrozenClock
) -> None:
    _keep(kept, _key(), "ann", _answer(ttlMs=5000))
    now.advance(2)
    found = kept.find(_key(), "ann")
    assert found is not None
    assert msgspec.json.decode(found) == {**msgspec.json.decode(_answer()), "ttlMs": 3000}
    now.advance(3)
    assert kept.find(_key(), "ann") is None
    _keep(kept, _key(), "ann", _answer(ttlMs=10**12))
    now.advance(lists.LONGEST_S - 1)
    assert kept.find(_key(), "ann") is not None
    now.advance(1)
    assert kept.find(_key(), "ann") is None


@pytest.mark.requirement("gateway:lists:ttl", "attack:cache:input")
@pytest.mark.parametrize(
    "members",
    [
        {"ttlMs": 0}, {"ttlMs": None}, {"ttlMs": -5}, {"ttlMs": "60000"}, {"resultType": "input_required"},
        {"resultType": "task"}, {"cacheScope": 7}, {"size": 300_000},
    ],
)  # fmt: skip
def test_what_does_not_say_that_it_stays_good_is_not_kept(kept: lists.Lists, members: dict[str, object]) -> None:
    _keep(kept, _key(), "ann", _answer(**members))  # pyright: ignore[reportArgumentType] - a table of them
    assert kept.find(_key(), "ann") is None


@pytest.mark.requirement("gateway:lists:changes")
def test_what_changed_while_the_server_answered_is_not_kept(kept: lists.Lists) -> None:
    ticket = lists.Ticket(kept, _key(), "ann", private=False, legacy=False)
    ticket.keep(EDITIONS[1], _answer())
    assert kept.find(_key(), "ann") is None
    assert kept.find(_key(edition=EDITIONS[1]), "ann") is None


@pytest.mark.requirement("gateway:lists:bounded")
def test_one_tenants_answers_are_bounded_and_drive_out_nobody_elses(kept: lists.Lists) -> None:
    theirs = _key(tenant=ids.TenantId("umbra"))
    _keep(kept, theirs, "eve", _answer())
    for number in range(100):
        _keep(kept, _key(asked=b"%d" % number), "ann", _answer(200_000))
        # Used each time, and so among the last.
        assert kept.find(_key(asked=b"0"), "ann") is not None
    there = [kept.find(_key(asked=b"%d" % number), "ann") is not None for number in range(100)]
    assert sum(there) * 200_000 <= lists.TENANT_BYTES
    assert there[0]
    assert there[-15:] == [True] * 15
    assert kept.find(theirs, "eve") is not None
    for number in range(30):
        for more in range(20):
            tenant = ids.TenantId(f"tenant-{number}")
            _keep(kept, _key(tenant=tenant, asked=b"%d" % more), "ann", _answer(200_000))
    assert kept.find(theirs, "eve") is not None
