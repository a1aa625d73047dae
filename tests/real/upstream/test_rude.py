"""Remote servers that answer badly, or lead elsewhere: through the real driver, over real connections on loopback."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from smcp.kernel import errors
from smcp.runtime import peer
from support import conversations
from support.conversations import Far, Names
from support.upstreams import CREDENTIAL, SECRET, Asked, Rude, answer, events, polite

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


async def _meet(far: Far, url: str, **more: Any) -> peer.Peer:
    instance = await far.start(conversations.spec(url, **more))
    return peer.Peer(instance, modern=False, timeout_s=conversations.WAIT_S)


async def _refused(far: Far, url: str, **more: Any) -> str:
    """What the first word to a server ends with."""
    with pytest.raises(errors.SmcpError) as caught:
        await (await _meet(far, url, wire="streamable", **more)).introduce()
    assert SECRET not in str(caught.value) + repr(caught.value) + " ".join(far.lines)
    return caught.value.public


@pytest.mark.requirement("attack:remote:rebinding")
async def test_the_address_that_was_checked_is_dialled_and_each_later_one_is_checked_again() -> None:
    # CVE-2026-53708: a name that changes between the check and the connection.
    async with Rude(polite).open() as rude:
        names = Names({"far.example": [["127.0.0.1"], ["169.254.169.254"]]})
        async with conversations.far(names=names) as far:
            url = f"http://far.example:{rude.port}/mcp"
            client = await _meet(far, url)
            await client.introduce()
            assert names.asked == ["far.example"]
            assert {one.fields["host"] for one in rude.asked} == {f"far.example:{rude.port}"}
            async with conversations.far(names=names) as other:
                assert "not dialled" in await _refused(other, url)
            assert [one.method for one in rude.asked].count("initialize") == 1


@pytest.mark.requirement("attack:remote:address")
@pytest.mark.parametrize(
    "addresses",
    [
        ["169.254.169.254"], ["10.0.0.1"], ["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"], ["fe80::1"], ["fd00:ec2::254"], ["0.0.0.0"],
    ],
)  # fmt: skip
async def test_a_name_with_one_inner_address_is_not_dialled(addresses: Sequence[str]) -> None:
    # CVE-2026-101064, CVE-2026-76093, MCPHub: inner addresses, and the forms of IPv6 that carry them.
    async with conversations.far(networks=(), names=Names({"far.example": [addresses]})) as far:
        assert "not dialled" in await _refused(far, "https://far.example/mcp")


@pytest.mark.requirement("attack:remote:redirect")
@pytest.mark.parametrize(
    ("location", "why"),
    [
        ("http://169.254.169.254/latest/meta-data", "not dialled"),
        ("http://[::ffff:169.254.169.254]/", "not dialled"),
        ("http://10.0.0.1/", "not dialled"),
        ("file:///etc/passwd", "wrong address"),
        ("gopher://127.0.0.1/", "wrong address"),
        ("http://user@127.0.0.1/", "wrong address"),
        ("/mcp", "more than 3 times"),
    ],
)
async def test_a_redirect_is_checked_as_the_first_address_was(location: str, why: str) -> None:
    # CVE-2026-64684
    async with Rude(lambda _: answer(307, None, f"Location: {location}")).open() as rude:
        async with conversations.far() as far:
            assert why in await _refused(far, rude.url, secrets=CREDENTIAL)
        assert len(rude.asked) <= 4


@pytest.mark.requirement("attack:remote:redirect")
async def test_a_credential_does_not_go_to_another_origin_and_goes_on_within_its_own() -> None:
    async with Rude(polite).open() as other, conversations.far() as far:

        def lead(one: Asked) -> bytes:
            if one.target == "/mcp":
                return answer(308, None, "Location: /here")
            if one.method == "initialize":
                return answer(307, None, f"Location: {other.url}")
            return polite(one)

        async with Rude(lead).open() as rude:
            client = await _meet(far, rude.url, secrets=CREDENTIAL)
            await client.introduce()
            here = [one for one in rude.asked if one.target == "/here"]
            assert {one.fields.get("authorization") for one in here} == {f"Bearer {SECRET}"}
            assert [one.method for one in other.asked] == ["initialize"]
            assert SECRET not in json.dumps([one.fields for one in other.asked])


@pytest.mark.requirement("attack:remote:redirect")
async def test_what_belongs_to_an_origin_stays_there_and_does_not_come_back_by_way_of_another() -> None:
    async with conversations.far() as far:
        first = ""
        async with Rude(lambda _: answer(307, None, f"Location: {first}/chosen")).open() as other:

            def lead(one: Asked) -> bytes:
                if one.method == "initialize":
                    return polite(one).replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: s1\r\n\r\n", 1)
                if one.method == "tools/call" and one.target == "/mcp":
                    return answer(307, None, f"Location: {other.url}")
                return polite(one)

            async with Rude(lead).open() as rude:
                first = f"http://127.0.0.1:{rude.port}"
                client = await _meet(far, rude.url, secrets=(("X-Api-Key", "KEY", SECRET),))
                await client.introduce()
                await client.request("tools/call", {"name": "x", "arguments": {}})
                calls = [one for one in rude.asked if one.method == "tools/call"]
                assert [one.target for one in calls] == ["/mcp", "/chosen"]
                assert calls[0].fields["x-api-key"] == SECRET
                assert calls[0].fields["mcp-session-id"] == "s1"
                for one in (*other.asked, calls[1]):
                    assert not {"x-api-key", "mcp-session-id"} & set(one.fields)
                assert len(other.asked) == 1


@pytest.mark.requirement("upstream:rude:status")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(401, {"secret": SECRET}), "refused the credential (401)"),
        (answer(403, None), "refused the credential (403)"),
        (answer(500, b"x" * 100), "status 500"),
        (answer(429, None, "Retry-After: 7"), "no more requests"),
        (answer(303, None, "Location: /x"), "303"),
        (answer(200, b"<html>", "Content-Type: text/html"), "JSON"),
        (answer(200, b"x", "Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 X\r\n" + b"X-Long: " + b"y" * 200_000 + b"\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "HTTP"),
        (b"", ""),
    ],
    ids=["401", "403", "500", "429", "303", "html", "gzip", "huge-head", "no-http", "closed"],
)
async def test_what_is_no_answer_is_a_clear_error_without_the_secret(said: bytes, why: str) -> None:
    async with Rude(lambda _: said).open() as rude, conversations.far() as far:
        assert why in await _refused(far, rude.url, secrets=CREDENTIAL)


@pytest.mark.requirement("upstream:rude:bounded")
async def test_an_endless_answer_is_cut_off() -> None:
    endless = b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n" + b" " * 3_000_000
    most = conversations.limits(max_message_bytes=1_000_000)
    async with Rude(lambda _: endless).open() as rude, conversations.far(most=most) as far:
        assert "larger than the platform takes" in await _refused(far, rude.url)


@pytest.mark.requirement("upstream:session:renewed")
async def test_a_session_that_the_server_forgot_is_begun_anew_once() -> None:
    known: list[str] = []
    forgets = 1

    def forgetful(one: Asked) -> bytes:
        nonlocal forgets
        if one.method == "initialize":
            known.append(f"s{len(known)}")
            return polite(one).replace(b"\r\n\r\n", f"\r\nMcp-Session-Id: {known[-1]}\r\n\r\n".encode(), 1)
        if one.method == "tools/call" and (forgets or one.fields.get("mcp-session-id") != known[-1]):
            forgets -= 1
            return answer(404)
        return polite(one)

    async with Rude(forgetful).open() as rude, conversations.far() as far:
        client = await _meet(far, rude.url)
        await client.introduce()
        done = await client.request("tools/call", {"name": "x", "arguments": {}})
        assert done["content"] == [{"type": "text", "text": "fine"}]
        assert known == ["s0", "s1"]
        forgets = 2
        rude.asked.clear()
        with pytest.raises(errors.SmcpError):
            await client.request("tools/call", {"name": "x", "arguments": {}})
        assert [one.method for one in rude.asked].count("tools/call") == 2


@pytest.mark.requirement("upstream:stream:resumed")
async def test_a_stream_that_breaks_is_taken_up_where_it_broke() -> None:
    waiting: list[Any] = []

    def breaks(one: Asked) -> bytes:
        if one.method == "tools/call":
            waiting.append(one.message["id"])
            return events("id: e1", "retry: 10", "data: ", "", "")
        if one.verb == "GET" and one.fields.get("last-event-id") == "e1":
            result = {"content": [{"type": "text", "text": "late"}]}
            said = json.dumps({"jsonrpc": "2.0", "id": waiting[-1], "result": result})
            return events("id: e2", f"data: {said}", "", "")
        return polite(one)

    async with Rude(breaks).open() as rude, conversations.far() as far:
        client = await _meet(far, rude.url)
        await client.introduce()
        done = await client.request("tools/call", {"name": "x", "arguments": {}})
        assert done["content"][0]["text"] == "late"


@pytest.mark.requirement("upstream:rude:status")
async def test_a_stream_that_ends_early_without_an_id_is_an_error() -> None:
    def ends(one: Asked) -> bytes:
        return events("data: ", "", "") if one.method == "tools/call" else polite(one)

    async with Rude(ends).open() as rude, conversations.far() as far:
        client = await _meet(far, rude.url)
        await client.introduce()
        with pytest.raises(errors.ServerFailed) as caught:
            await client.request("tools/call", {"name": "x", "arguments": {}})
        assert "before the response" in caught.value.public


@pytest.mark.requirement("attack:remote:endpoint")
async def test_an_endpoint_of_another_origin_is_refused() -> None:
    async with Rude(polite).open() as other, conversations.far() as far:

        def elsewhere(one: Asked) -> bytes:
            return events("event: endpoint", f"data: {other.url}", "", "") if one.verb == "GET" else answer(405)

        async with Rude(elsewhere).open() as rude:
            client = await _meet(far, rude.url, wire="sse", secrets=CREDENTIAL)
            with pytest.raises(errors.SmcpError) as caught:
                await client.introduce()
            assert SECRET not in str(caught.value)
            assert other.asked == []


@pytest.mark.requirement("attack:remote:endpoint")
async def test_a_stream_that_was_led_elsewhere_names_no_endpoint_there() -> None:
    def tells(one: Asked) -> bytes:
        return events("event: endpoint", "data: /messages", "", "") if one.verb == "GET" else polite(one)

    async with Rude(tells).open() as other, conversations.far() as far:
        async with Rude(lambda _: answer(307, None, f"Location: {other.url}")).open() as rude:
            client = await _meet(far, rude.url, wire="sse", secrets=CREDENTIAL)
            with pytest.raises(errors.SmcpError) as caught:
                await client.introduce()
            assert "another origin" in caught.value.public
        assert [one.verb for one in other.asked] == ["GET"]
        assert SECRET not in json.dumps([one.fields for one in other.asked])


@pytest.mark.requirement("upstream:rude:silent")
async def test_a_server_that_never_answers_is_given_up() -> None:
    over = asyncio.Event()

    async def never(one: Asked) -> bytes:
        if one.method == "tools/call":
            await over.wait()
        return polite(one)

    async with Rude(never).open() as rude, conversations.far() as far:
        instance = await far.start(conversations.spec(rude.url))
        await peer.Peer(instance, modern=False, timeout_s=conversations.WAIT_S).introduce()
        hasty = peer.Peer(instance, modern=False, timeout_s=5.0)
        with pytest.raises(errors.ServerTimeout):
            await hasty.request("tools/call", {"name": "x", "arguments": {}})
        assert "tools/call" in [one.method for one in rude.asked]
        over.set()
