"""SSRF through what a client says of itself, over the wire: one fetch, through the guarded door, and nothing else."""

import asyncio
import json

import httpx2
import pytest

from support import byoauth, idp, visitors
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_INSIDE = (
    "https://169.254.169.254/latest/meta-data",
    "https://10.1.2.3/c",
    "https://192.168.0.1/c",
    "https://172.16.0.1/c",
    "https://0.0.0.0/c",
    "https://[::1]/c",
    "https://[::ffff:10.1.2.3]/c",
    "https://[64:ff9b::a9fe:a9fe]/c",
    "https://[fd00::1]/c",
    "https://2852039166/c",
    "https://0xa9fea9fe/c",
    "https://0251.0376.0251.0376/c",
    "https://inner.client.example/c",
    "https://cloud.client.example/c",
    "https://localhost/c",
    "http://app.client.example/c",
    "https://app.client.example/",
    "https://app.client.example",
    "https://user:pass@app.client.example/c",
    "https://app.client.example/c#f",
    "https://app.client.example/a/../c",
    "https://APP.client.example/c",
    "ftp://app.client.example/c",
    "file:///etc/passwd",
)


@pytest.mark.requirement("oauth:attacks:ssrf")
@pytest.mark.parametrize("url", _INSIDE)
async def test_ghsa_pr64_jmmf_jp54_a_client_id_that_leads_inside_is_not_fetched(
    house: House, http: httpx2.AsyncClient, url: str
) -> None:
    attempt = house.issuer(http, "strangers").begin(url, house.gate.acme.url)
    answer = await http.get(attempt.address)
    assert answer.status_code == 400, answer.text[:2000]
    assert visitors.location(answer) == ""
    # What listens there is nobody's business: one text for a name inside, refused and unreachable alike.
    assert not any(word in answer.text.lower() for word in ("refused by", "connection", "timed out", "private"))


@pytest.mark.requirement("oauth:attacks:ssrf")
async def test_whatever_a_client_id_calls_this_machine_nobody_who_listens_there_is_dialled(
    house: House, http: httpx2.AsyncClient
) -> None:
    """Where nothing listens, a fetch that is made and one that is refused look the same: here somebody does.

    The operator has opened this very network, for what tenants have deployed: not for whoever finds the login page.
    """
    dialled: list[str] = []
    heard = asyncio.Event()

    async def came(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(str(writer.get_extra_info("peername")))
        heard.set()
        writer.close()

    house.platform.create_tenant("inside")
    issuer = house.issuer(http, "inside")
    async with await asyncio.start_server(came, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for name in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1", "0.0.0.0"):
            answer = await http.get(issuer.begin(f"https://{name}:{port}/c", house.gate.acme.url).address)
            assert answer.status_code == 400, name
        assert dialled == []
        # It can be reached: not that nobody could have heard.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await heard.wait()
        writer.close()


@pytest.mark.requirement("oauth:attacks:ssrf")
async def test_a_document_is_fetched_bare_and_its_redirect_is_not_followed(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    good = house.documents.client("/good")
    house.documents.show("/moved", {}, 302, location=house.documents.url("/secret"))
    house.documents.asked.clear()
    async with idp.signed_in(house, "ada") as ada:
        assert "code" in await ada.agree(issuer.begin(good, house.gate.acme.url).address)
        answer = await ada.http.get(issuer.begin(house.documents.url("/moved"), house.gate.acme.url).address)
    assert answer.status_code >= 400
    assert [path for path, _ in house.documents.asked] == ["/good", "/moved"]
    for _, fields in house.documents.asked:
        assert not {"cookie", "authorization", "origin", "referer"} & fields.keys()


@pytest.mark.requirement("oauth:attacks:ssrf")
@pytest.mark.parametrize(
    "said",
    [
        {"client_id": "https://app.client.example/other"},
        {"client_id": None},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": []},
        {"token_endpoint_auth_method": "client_secret_post", "client_secret": "x"},
        {"jwks_uri": "https://169.254.169.254/jwks", "token_endpoint_auth_method": "private_key_jwt"},
        {"client_name": ["x"]},
    ],
)
async def test_a_document_that_speaks_for_another_or_lies_is_no_client(
    house: House, http: httpx2.AsyncClient, said: dict[str, object]
) -> None:
    path = f"/wrong-{abs(hash(json.dumps(said, sort_keys=True)))}"
    client = house.documents.client(path, **said)
    answer = await http.get(house.issuer(http).begin(client, house.gate.acme.url).address)
    assert answer.status_code in (400, 429), answer.text[:2000]
    assert visitors.location(answer) == ""


@pytest.mark.requirement("oauth:attacks:ssrf")
async def test_pictures_and_policies_that_a_client_names_are_not_fetched_nor_its_keys_before_somebody_signs(
    house: House, http: httpx2.AsyncClient
) -> None:
    said = {name: house.documents.url(f"/{name}") for name in ("logo_uri", "policy_uri", "tos_uri", "client_uri")}
    house.documents.asked.clear()
    issuer = house.issuer(http)
    client = await idp.client(house, issuer, "With pictures", **said)
    async with idp.signed_in(house, "ada") as ada:
        page = await ada.open(issuer.begin(client, house.gate.acme.url).address)
    assert page.status_code == 200
    assert said["logo_uri"] not in page.text
    order = {"redirect_uris": [byoauth.LOOPBACK], "token_endpoint_auth_method": "private_key_jwt"}
    keys = {**order, "jwks_uri": house.documents.url("/jwks")}
    # Those are read when somebody signs in its name, and not because somebody registers.
    assert (await http.post(issuer.at("register"), json=keys)).status_code == 201
    both: dict[str, object] = {**keys, "jwks": {"keys": list[object]()}}
    assert byoauth.refusal(await http.post(issuer.at("register"), json=both)) == "invalid_client_metadata"
    assert house.documents.asked == []
