"""The authorization endpoint, step by step, over HTTP."""

import urllib.parse

import httpx2
import pytest

from smcp.identity.oauth import adoptions
from support import pages


def told(answer: httpx2.Response) -> dict[str, str]:
    """What a redirect tells the client."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.headers["location"]).query))


@pytest.mark.requirement("oauth:pages:authorize", "oauth:pages:request-kept")
async def test_a_request_survives_signing_in_and_ends_with_a_code(person: pages.Browser, world: pages.World) -> None:
    client = await world.client("Notebook")
    link = world.link(client)
    page = await person.get(link)
    assert page.status_code == 200
    assert "Notebook" in page.text
    back = await person.send(page, email=pages.EMAIL, password=pages.PASSWORD)
    assert back.status_code == 303
    assert world.base + back.headers["location"] == link
    consent = await person.get(back.headers["location"])
    answer = await person.send(consent, answer="allow")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{world.callback}?")
    found = told(answer)
    assert (found["state"], found["iss"]) == ("as it was", f"{world.base}/t/acme")
    code = await world.codes.find(pages.ACME, found["code"], pages.VERIFIER, client.redirect_uris[0], client.id)
    assert code.approved.user == world.ada.id
    assert code.approved.server == "notes"
    assert set(code.approved.scopes) == {"mcp:read", "mcp:call"}
    given = await world.told("ConsentGiven")
    assert [(one.client, one.server) for one in given] == [(client.id, "notes")]


@pytest.mark.requirement("oauth:pages:authorize")
async def test_who_says_no_sends_the_client_away_with_that(person: pages.Browser, world: pages.World) -> None:
    await person.sign_in()
    client = await world.client("Notebook")
    answer = await person.send(await person.get(world.link(client)), answer="deny")
    found = told(answer)
    assert found["error"] == "access_denied"
    assert (found["state"], found["iss"]) == ("as it was", f"{world.base}/t/acme")
    assert "code" not in found
    assert not await world.grants.approvals(pages.ACME, world.ada.id)
    assert len(await world.told("ConsentDenied")) == 1


@pytest.mark.requirement("oauth:pages:authorize", "oauth:pages:no-open-redirect")
@pytest.mark.parametrize(
    "other",
    [
        {"client_id": "client-00000000000000000000000000"},
        {"client_id": "<script>alert(1)</script>"},
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": "javascript:alert(1)"},
        {"redirect_uri": "http://127.0.0.1:1/other"},
        {"redirect_uri": "http://127.0.0.1@evil.example/landed"},
    ],
)
async def test_a_request_that_can_not_be_trusted_leads_nowhere_attack_cve_2025_4143(
    person: pages.Browser, world: pages.World, other: dict[str, str]
) -> None:
    await person.sign_in()
    client = await world.client("Notebook")
    answer = await person.get(world.link(client, **other))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "<script>alert" not in answer.text
    assert "evil.example" not in answer.text


@pytest.mark.requirement("oauth:pages:authorize")
@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"resource": "https://elsewhere.example/mcp"}, "invalid_target"),
    ],
)
async def test_the_client_is_told_what_is_wrong_with_its_request_attack_pkce_downgrade(
    person: pages.Browser, world: pages.World, other: dict[str, str], error: str
) -> None:
    client = await world.client("Web", "https://app.example/cb")
    await person.sign_in()
    await person.send(await person.get(world.link(client)), answer="allow")
    answer = await person.get(world.link(client, **other))
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("https://app.example/cb?")
    assert told(answer)["error"] == error


@pytest.mark.requirement("oauth:dpop:code")
async def test_a_request_that_names_a_key_gives_a_code_for_that_key_attack_stolen_code(
    person: pages.Browser, world: pages.World
) -> None:
    """RFC 9449, 10."""
    await person.sign_in()
    client = await world.client("Web", "https://app.example/cb")
    answer = await person.send(await person.get(world.link(client, dpop_jkt=pages.CHALLENGE)), answer="allow")
    found = told(answer)["code"]
    code = await world.codes.find(pages.ACME, found, pages.VERIFIER, client.redirect_uris[0], client.id)
    assert code.approved.jkt == pages.CHALLENGE
    for wrong in (pages.CHALLENGE[1:], f"{pages.CHALLENGE}=", "!" * 43):
        answer = await person.get(world.link(client, dpop_jkt=wrong))
        assert told(answer)["error"] == "invalid_request", wrong


@pytest.mark.requirement("oauth:pages:consent")
async def test_a_host_that_a_client_only_names_is_not_told_as_its_own_attack_impersonation(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    named, own = "https://famous.example/cb", "https://evil.example/cb"
    client = await world.client("Famous", named, own)
    page = await person.get(world.link(client, redirect_uri=own))
    assert "<code>evil.example</code>" in page.text
    assert "famous.example" not in page.text
    await person.send(page, answer="allow")
    assert "famous.example" not in (await person.get("/account/acme/clients")).text


@pytest.mark.requirement("oauth:pages:no-open-redirect")
@pytest.mark.parametrize("other", [{"prompt": "none"}, {"scope": "everything"}, {"response_type": "token"}])
async def test_a_link_leads_nobody_to_where_a_stranger_has_registered_attack_open_redirect(
    person: pages.Browser, world: pages.World, other: dict[str, str]
) -> None:
    """RFC 9700, 4.11.2: a client that anybody made, a request that is wrong, and a visitor who is not signed in."""
    client = await world.client("Prize", "https://evil.example/won")
    answer = await person.get(world.link(client, **other))
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "http-equiv" not in answer.text
    assert "<code>evil.example</code>" in answer.text
    # Nor who is signed in, before they have said yes to this client.
    await person.sign_in()
    assert (await person.get(world.link(client, **other))).status_code == 400
    await person.send(await person.get(world.link(client)), answer="allow")
    assert (await person.get(world.link(client, **other))).status_code == 303


@pytest.mark.requirement("oauth:pages:consent")
async def test_consent_is_asked_for_each_client_server_and_scope_attack_confused_deputy(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    first = await world.client("Web", "https://app.example/cb")
    second = await world.client("Web", "https://app.example/cb")
    read = {"scope": "mcp:read"}
    asked = await person.get(world.link(first, **read))
    assert asked.status_code == 200
    await person.send(asked, answer="allow")
    # The same once more: nothing is asked.
    again = await person.get(world.link(first, **read))
    assert again.status_code == 303
    assert "code" in told(again)
    # Another scope, another client with the same name and address, the client's own wish: it is.
    for link in (
        world.link(first, scope="mcp:call"),
        world.link(second, **read),
        world.link(first, **read, prompt="consent"),
    ):
        page = await person.get(link)
        assert page.status_code == 200
        assert "Allow access?" in page.text
    assert "(allowed before)" in (await person.get(world.link(first, scope="mcp:read mcp:call"))).text
    # Another server, and another person, too.
    async with pages.browser(world) as other:
        await world.person("bob@example.org", "Bob")
        await other.sign_in("bob@example.org")
        assert (await other.get(world.link(first, **read))).status_code == 200
    # Taken back: it is asked again.
    await person.send(await person.get("/account/acme/clients"), revoke=first.id)
    assert (await person.get(world.link(first, **read))).status_code == 200


@pytest.mark.requirement("oauth:pages:consent")
async def test_what_was_allowed_is_asked_again_for_another_address_name_or_host_attack_swapped_client(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    one, two = "https://app.example/cb", "https://evil.example/cb"
    client = await world.client("Web", one, two)
    await person.send(await person.get(world.link(client)), answer="allow")
    assert (await person.get(world.link(client))).status_code == 303
    assert (await person.get(world.link(client, redirect_uri=two))).status_code == 200
    await world.rename(client, "Bank")
    renamed = await person.get(world.link(client))
    assert renamed.status_code == 200
    await person.send(renamed, answer="allow")
    assert (await person.get(world.link(client))).status_code == 303
    # Allowed at the other address as well, both count; what is taken back counts nowhere.
    await person.send(await person.get(world.link(client, redirect_uri=two)), answer="allow")
    assert (await person.get(world.link(client))).status_code == 303
    assert (await person.get(world.link(client, redirect_uri=two))).status_code == 303
    await person.send(await person.get("/account/acme/clients"), revoke=client.id)
    assert (await person.get(world.link(client))).status_code == 200


@pytest.mark.requirement("oauth:pages:consent-bound")
async def test_an_answer_is_to_what_the_page_said_attack_name_changed_while_it_is_read(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    client = await world.client("Web", "https://app.example/cb")
    page = await person.get(world.link(client))
    await world.rename(client, "Bank")
    again = await person.send(page, answer="allow")
    assert again.status_code == 200
    assert "Bank" in again.text
    assert not await world.grants.approvals(pages.ACME, world.ada.id)
    assert (await person.send(again, answer="allow")).status_code == 303


@pytest.mark.requirement("oauth:pages:consent")
@pytest.mark.parametrize("uri", ["http://127.0.0.1/cb", "http://localhost:3000/cb", "com.example.app:/cb"])
async def test_programs_on_the_persons_machine_are_asked_about_every_time_attack_client_impersonation(
    person: pages.Browser, world: pages.World, uri: str
) -> None:
    await person.sign_in()
    client = await world.client("Native", uri)
    for _ in range(2):
        page = await person.get(world.link(client))
        assert page.status_code == 200
        assert (await person.send(page, answer="allow")).status_code == 303


@pytest.mark.requirement("oauth:pages:consent-words")
async def test_the_page_says_who_asks_for_what_and_where_the_answer_goes(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    page = await person.get(world.link(await world.client("Notebook")))
    for words in (
        "Notebook",
        "127.0.0.1",
        f"{world.base}/t/acme/notes/mcp",
        "See what the server offers",
        "A program on this computer asks",
        "Nobody has checked who this is",
        pages.EMAIL,
    ):
        assert words in page.text, words
    web = await person.get(world.link(await world.client("Web", "https://app.example/cb")))
    assert "app.example" in web.text
    assert "A program on this computer asks" not in web.text


@pytest.mark.requirement("oauth:pages:form-action")
async def test_a_forms_policy_names_the_one_place_where_the_answer_goes(
    person: pages.Browser, world: pages.World
) -> None:
    client = await world.client("Web", "https://app.example/cb")
    login = await person.get(world.link(client))
    assert "form-action 'self' https://app.example;" in login.headers["content-security-policy"]
    await person.sign_in()
    consent = await person.get(world.link(client))
    assert "form-action 'self' https://app.example;" in consent.headers["content-security-policy"]
    plain = await person.get("/account/acme")
    assert "form-action 'self';" in plain.headers["content-security-policy"]


@pytest.mark.requirement("oauth:pages:form-action")
async def test_where_the_policy_has_no_word_for_the_place_a_page_goes_on_in_between(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    client = await world.client("Six", "http://[::1]:4000/cb")
    answer = await person.send(await person.get(world.link(client)), answer="allow")
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=http://[::1]:4000/cb?code=' in answer.text


@pytest.mark.requirement("oauth:pages:consent-bound")
async def test_an_answer_counts_in_its_own_session_only_attack_consent_forgery(
    person: pages.Browser, world: pages.World
) -> None:
    client = await world.client("Notebook")
    await world.person("bob@example.org", "Bob")
    async with pages.browser(world) as bob:
        await bob.sign_in("bob@example.org")
        page = await bob.get(world.link(client))
    await person.sign_in()
    assert (await person.send(page, answer="allow")).status_code == 403
    # With a token of one's own, the other's ticket still opens nothing.
    token = pages.Forms((await person.get(world.link(client))).text).forms[0][1]["form_token"]
    assert (await person.send(page, answer="allow", form_token=token)).status_code == 400
    # Signed out, nothing counts either.
    own = await person.get(world.link(client))
    await person.send(await person.get("/account/acme/logout"))
    assert (await person.send(own, answer="allow")).status_code == 403
    assert not await world.grants.approvals(pages.ACME, world.ada.id)


@pytest.mark.requirement("oauth:pages:consent-bound")
async def test_a_client_that_is_revoked_while_the_page_is_read_gets_no_code(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    client = await world.client("Notebook")
    page = await person.get(world.link(client))
    await world.clients.revoke(pages.ACME, client.id)
    answer = await person.send(page, answer="allow")
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.requirement("oauth:pages:consent-bound")
async def test_a_person_whose_account_is_closed_while_the_page_is_read_allows_nothing(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    page = await person.get(world.link(await world.client("Notebook")))
    await world.people.users.disable(pages.ACME, world.ada.id)
    assert (await person.send(page, answer="allow")).status_code == 403


@pytest.mark.requirement("oauth:pages:authorize")
async def test_who_is_asked_to_sign_in_again_does(person: pages.Browser, world: pages.World) -> None:
    client = await world.client("Web", "https://app.example/cb")
    page = await person.get(world.link(client, prompt="login"))
    back = await person.send(page, email=pages.EMAIL, password=pages.PASSWORD)
    # Just signed in: that is what the client wanted.
    assert "Allow access?" in (await person.get(back.headers["location"])).text


@pytest.mark.requirement("oauth:client:adoptions", "attack:oauth:members-room")
async def test_who_made_as_many_clients_lasting_as_is_possible_is_told_and_has_approved_nothing(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    client, known = await world.client("Notebook"), await world.client("Editor")
    await world.clients.adopt(known, actor=world.ada.id, request_id="")
    counted = adoptions.Adoptions(world.store, world.clock)
    for _ in range(adoptions.MOST - 1):
        await counted.count(pages.ACME, world.ada.id)
    answer = await person.send(await person.get(world.link(client)), answer="allow")
    assert answer.status_code == 429
    assert "tomorrow" in answer.text
    assert not await world.grants.approvals(pages.ACME, world.ada.id)
    answer = await person.send(await person.get(world.link(known)), answer="allow")
    assert "code" in told(answer)
