"""Attacks on the way to a code, over the wire: where answers go, and what stands between request and code."""

import html
import re
import urllib.parse

import httpx2
import pytest

from support import byoauth, idp, visitors, wire
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_WEB = "https://app.example/cb"
_TRICKS = (
    "https://evil.example/cb",
    "https://app.example/cb/",
    "https://app.example/cb?x=1",
    "https://app.example/cb#f",
    "https://app.example/cb/../evil",
    "https://app.example/CB",
    "https://APP.example/cb",
    "https://app.example:443/cb",
    "https://app.example.evil.example/cb",
    "https://app.example@evil.example/cb",
    "https://app.example%2eevil.example/cb",
    "https://evil.example\\@app.example/cb",
    "https://app.example/%63b",
    "http://app.example/cb",
    "//evil.example/cb",
    "/cb",
    "javascript:alert(1)//https://app.example/cb",
    "data:text/html,x",
    "https://app.example/cb https://evil.example/",
    "https://app.example/cb\nLocation: https://evil.example/",
    "http://127.0.0.1:7777/callback",
    "",
)


def _stays(answer: httpx2.Response) -> None:
    """A page for the person, that leads nowhere and shows no answer to anybody."""
    assert answer.status_code == 400, f"{answer.status_code} {answer.text[:2000]}"
    assert "location" not in answer.headers
    assert visitors.location(answer) == ""
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.requirement("oauth:attacks:redirects")
@pytest.mark.parametrize("trick", _TRICKS)
async def test_cve_2025_4143_an_unregistered_redirect_gets_an_error_page_and_no_redirect(
    house: House, http: httpx2.AsyncClient, trick: str
) -> None:
    issuer = house.issuer(http)
    client = await _web_client(house, issuer)
    attempt = issuer.begin(client, house.gate.acme.url, redirect=trick)
    async with house.visitor("ada") as stranger:
        _stays(await stranger.open(attempt.address))


async def _web_client(house: House, issuer: byoauth.Issuer) -> str:
    return await idp.client(house, issuer, "Web", redirect_uris=[_WEB])


@pytest.mark.requirement("oauth:attacks:redirects")
@pytest.mark.parametrize(
    "query",
    ["redirect_uri=https%3A%2F%2Fevil.example%2F", "client_id=x", "state=y", "scope=mcp%3Acall", "redirect_uri="],
)
async def test_a_parameter_that_comes_twice_leads_nowhere(house: House, http: httpx2.AsyncClient, query: str) -> None:
    issuer = house.issuer(http)
    attempt = issuer.begin(await _web_client(house, issuer), house.gate.acme.url, redirect=_WEB)
    async with house.visitor("ada") as stranger:
        _stays(await stranger.open(f"{attempt.address}&{query}"))


@pytest.mark.requirement("oauth:attacks:redirects")
async def test_an_unknown_client_and_another_tenants_client_get_an_error_page(
    house: House, http: httpx2.AsyncClient
) -> None:
    acme, umbra = house.issuer(http), house.issuer(http, "umbra")
    client = await _web_client(house, acme)
    async with house.visitor("eve") as eve:
        _stays(await eve.open(umbra.begin(client, house.gate.umbra.url, redirect=_WEB).address))
        _stays(await eve.open(umbra.begin("client-unknown", house.gate.umbra.url, redirect=_WEB).address))
        _stays(await eve.open(umbra.begin("", house.gate.umbra.url, redirect=_WEB).address))


@pytest.mark.requirement("oauth:attacks:pkce")
@pytest.mark.parametrize(
    "changed",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": None},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
        {"code_challenge": ""},
    ],
)
async def test_cve_2025_4144_pkce_cannot_be_left_out_or_downgraded_at_the_request(
    house: House, http: httpx2.AsyncClient, changed: dict[str, str | None]
) -> None:
    issuer = house.issuer(http)
    attempt = issuer.begin(await _web_client(house, issuer), house.gate.acme.url, redirect=_WEB, **changed)
    answer = await http.get(attempt.address)
    # Nobody is signed in: a page, whose reader may take the answer to the client (RFC 9700, 4.11.2).
    assert visitors.location(answer) == ""
    told = re.search(rf'href="({re.escape(_WEB)}\?[^"]*)"', answer.text)
    assert told, answer.text
    came = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(html.unescape(told[1])).query))
    assert (came["error"], came["state"], came["iss"]) == ("invalid_request", attempt.state, issuer.name)
    assert "code" not in came


@pytest.mark.requirement("oauth:attacks:pkce")
@pytest.mark.parametrize("verifier", [None, "", "x" * 43, "challenge"])
async def test_cve_2025_4144_a_code_without_its_verifier_is_worth_nothing_to_whoever_read_it(
    house: House, http: httpx2.AsyncClient, verifier: str | None
) -> None:
    issuer = house.issuer(http)
    attempt = issuer.begin(await _web_client(house, issuer), house.gate.acme.url, redirect=_WEB)
    async with idp.signed_in(house, "ada") as ada:
        came = await ada.agree(attempt.address)
    shown = byoauth.challenge(attempt.verifier) if verifier == "challenge" else verifier
    refused = await issuer.redeem(attempt, came["code"], code_verifier=shown)
    assert byoauth.refusal(refused) in ("invalid_grant", "invalid_request")
    # Nor does trying cost its owner the login.
    assert byoauth.pair(await issuer.redeem(attempt, came["code"])).access


@pytest.mark.requirement("oauth:attacks:codes")
async def test_a_code_that_is_shown_twice_ends_what_it_gave(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    attempt = issuer.begin(await _web_client(house, issuer), house.gate.acme.url, redirect=_WEB)
    async with idp.signed_in(house, "ada") as ada:
        came = await ada.agree(attempt.address)
    got = byoauth.pair(await issuer.redeem(attempt, came["code"]))
    assert await _status(http, house.gate.acme.url, got.access) == 200
    assert byoauth.refusal(await issuer.redeem(attempt, came["code"])) == "invalid_grant"
    # OAuth 2.1, 4.1.3: what came of the code is revoked, and that holds for the very next request.
    assert await _status(http, house.gate.acme.url, got.access) == 401
    assert byoauth.refusal(await issuer.refresh(attempt.client, got.refresh)) == "invalid_grant"


@pytest.mark.requirement("oauth:attacks:codes")
async def test_a_stolen_code_is_worth_nothing_to_another_client_redirect_or_tenant(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    client, other = await _web_client(house, issuer), await idp.client(house, issuer)
    theirs = await _web_client(house, house.issuer(http, "umbra"))
    async with idp.signed_in(house, "ada") as ada:

        async def code() -> tuple[byoauth.Attempt, str]:
            attempt = issuer.begin(client, house.gate.acme.url, redirect=_WEB)
            return attempt, (await ada.agree(attempt.address))["code"]

        for changed in (
            {"client_id": other},
            {"redirect_uri": byoauth.LOOPBACK},
            {"redirect_uri": None},
            {"resource": house.gate.second.url},
            {"resource": house.api},
        ):
            attempt, stolen = await code()
            said = byoauth.refusal(await issuer.redeem(attempt, stolen, **changed))
            assert said in ("invalid_grant", "invalid_target", "invalid_request"), changed
        attempt, stolen = await code()
        umbra = house.issuer(http, "umbra")
        for client_id in (client, theirs):
            said = byoauth.refusal(await umbra.redeem(attempt, stolen, client_id=client_id))
            assert said in ("invalid_grant", "invalid_client"), client_id


@pytest.mark.requirement("oauth:attacks:codes")
async def test_code_injection_somebody_elses_code_does_not_fit_this_logins_verifier(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    client = await _web_client(house, issuer)
    mine, theirs = (issuer.begin(client, house.gate.acme.url, redirect=_WEB) for _ in range(2))
    async with idp.signed_in(house, "bob") as bob:
        injected = (await bob.agree(theirs.address))["code"]
    assert byoauth.refusal(await issuer.redeem(mine, injected)) == "invalid_grant"


@pytest.mark.requirement("oauth:attacks:mix-up")
async def test_mix_up_every_answer_names_its_issuer(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    client = await _web_client(house, issuer)
    async with idp.signed_in(house, "ada") as ada:
        agreed, denied = (issuer.begin(client, house.gate.acme.url, redirect=_WEB, prompt="consent") for _ in range(2))
        wrong = issuer.begin(client, house.gate.acme.url, redirect=_WEB, scope="nonsense")
        answers = [await ada.agree(agreed.address), await ada.agree(denied.address, "deny")]
        answers.append(visitors.came(await ada.http.get(wrong.address)))
    assert [came["iss"] for came in answers] == [issuer.name] * 3
    assert [came.get("error") for came in answers] == [None, "access_denied", "invalid_scope"]
    metadata = (await http.get(f"{house.base_url}/.well-known/oauth-authorization-server/t/acme")).json()
    assert metadata["issuer"] == issuer.name
    assert metadata["authorization_response_iss_parameter_supported"] is True


@pytest.mark.requirement("oauth:attacks:mix-up")
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_the_documents_resource_is_the_address_that_was_typed_and_its_issuer_the_one(
    house: House, http: httpx2.AsyncClient, slash: str, name: str
) -> None:
    origin = house.base_url.replace("127.0.0.1", name)
    where = f"/t/acme/tool/mcp{slash}"
    document = (await http.get(f"{origin}/.well-known/oauth-protected-resource{where}")).json()
    assert document["resource"] == f"{origin}{where}"
    assert document["authorization_servers"] == [f"{house.base_url}/t/acme"]


@pytest.mark.requirement("oauth:attacks:loopback")
async def test_rfc_8252_a_loopback_redirect_has_any_port_and_no_other_name_path_or_scheme(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    uris = ["http://127.0.0.1/cb", "http://localhost/cb"]
    client = await idp.client(house, issuer, "Local", redirect_uris=uris)
    async with idp.signed_in(house, "ada") as ada:
        for good in ("http://127.0.0.1:5/cb", "http://localhost:60000/cb", "http://127.0.0.1/cb"):
            page = await ada.open(issuer.begin(client, house.gate.acme.url, redirect=good).address)
            assert page.status_code == 200, good
            assert visitors.form(page, "/authorize")
        for bad in (
            "http://127.0.0.1:5/other",
            "http://127.0.0.2:5/cb",
            "http://[::1]:5/cb",
            "https://127.0.0.1:5/cb",
            "http://127.0.0.1:x/cb",
            "http://127.0.0.1:99999/cb",
            "http://127.0.0.1:5@evil.example/cb",
            "http://127.0.0.1.evil.example:5/cb",
            "http://localhost.evil.example:5/cb",
            "http://0:5/cb",
            "http://2130706433:5/cb",
        ):
            _stays(await ada.open(issuer.begin(client, house.gate.acme.url, redirect=bad).address))


@pytest.mark.requirement("oauth:attacks:registration")
@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "http://evil.example/cb",
        "https://a@b.example/cb",
        "https://b.example/cb#x",
        "vbscript:x",
        "https://b.example/c b",
        "blob:https://b.example/x",
        "x",
    ],
)
async def test_dcr_abuse_a_redirect_that_is_no_clients_cannot_be_registered(
    house: House, http: httpx2.AsyncClient, uri: str
) -> None:
    order = {"redirect_uris": [uri], "token_endpoint_auth_method": "none"}
    answer = await http.post(house.issuer(http, "strangers").at("register"), json=order)
    assert byoauth.refusal(answer) in ("invalid_redirect_uri", "invalid_client_metadata")


@pytest.mark.requirement("oauth:attacks:registration")
async def test_dcr_abuse_a_flood_of_registrations_is_slowed_and_others_are_not(
    house: House, http: httpx2.AsyncClient
) -> None:
    house.platform.create_tenant("flooded")
    flooded = house.issuer(http, "flooded")
    order = {"redirect_uris": [byoauth.LOOPBACK], "token_endpoint_auth_method": "none"}
    statuses = [(await http.post(flooded.at("register"), json=order)).status_code for _ in range(100)]
    assert set(statuses) == {201, 429}
    other = await http.post(flooded.at("register"), json=order, headers={"X-Forwarded-For": visitors.address()})
    assert other.status_code == 201


async def _status(http: httpx2.AsyncClient, url: str, token: str) -> int:
    fields, body = wire.modern("tools/list")
    return (await http.post(url, headers={**fields, "authorization": f"Bearer {token}"}, content=body)).status_code
