"""A person in front of a browser that knows forms and cookies and nothing else: no script runs, no style is read.

What is shown that the pages work without JavaScript; and what attacks are made of, which a real browser would not send.
"""

import html
import html.parser
import itertools
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final, NamedTuple

import httpx2

PASSWORD: Final = "violet gravel teapot seven"
_REFRESH: Final = re.compile(r'http-equiv="refresh" content="0;url=([^"]+)"')


_ADDRESSES: Final = itertools.count(1)


def address() -> str:
    """A network address that nobody has had before in this run (RFC 2544's): rates count by address."""
    number = next(_ADDRESSES)
    return f"198.18.{number // 250 % 250}.{number % 250 + 1}"


class Form(NamedTuple):
    """One form of a page, as it stands."""

    action: str
    fields: dict[str, str]
    buttons: tuple[tuple[str, str], ...]


class _Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.attributes: set[str] = set()
        self._open: tuple[str, dict[str, str], list[tuple[str, str]]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.update(name for name, _ in attrs)
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._open = (said.get("action", ""), {}, [])
        elif self._open is not None and said.get("name"):
            if tag == "input":
                self._open[1][said["name"]] = said.get("value", "")
            elif tag == "button":
                self._open[2].append((said["name"], said.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self._open is not None:
            action, fields, buttons = self._open
            self.forms.append(Form(action, fields, tuple(buttons)))
            self._open = None


def forms(page: httpx2.Response) -> list[Form]:
    """The forms of a page, in its order."""
    reader = _Reader()
    reader.feed(page.text)
    return reader.forms


def attributes(page: httpx2.Response) -> set[str]:
    """The names of all attributes of a page."""
    reader = _Reader()
    reader.feed(page.text)
    return reader.attributes


def form(page: httpx2.Response, action: str) -> Form:
    """The form of `page` whose address ends with `action`. Fails where there is none, and shows the page."""
    found = [one for one in forms(page) if urllib.parse.urlsplit(one.action).path.endswith(action)]
    assert found, f"no form for {action} on {page.url} ({page.status_code}):\n{page.text[:3000]}"
    return found[0]


class Visitor:
    """One browser."""

    def __init__(self, base_url: str, tenant: str, email: str = "", password: str = PASSWORD) -> None:
        self.base_url = base_url
        self.tenant = tenant
        self.email = email
        self.password = password
        self.http = httpx2.AsyncClient(
            base_url=base_url,
            headers={"X-Forwarded-For": address()},
            timeout=60.0,
            follow_redirects=False,
            trust_env=False,
        )

    async def __aenter__(self) -> "Visitor":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def open(self, address: str) -> httpx2.Response:
        """Go to `address`, as somebody who clicks a link elsewhere; redirects within the platform are followed."""
        return await self._follow(await self.http.get(address, headers={"Sec-Fetch-Site": "cross-site"}))

    async def send(
        self, shown: Form, changed: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """Send a form of a page, as its own page does."""
        return await self._follow(await self.post(shown, changed, headers))

    async def post(
        self, shown: Form, changed: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx2.Response:
        """As `send`, without following what comes."""
        own = {"Origin": self.base_url, "Sec-Fetch-Site": "same-origin"}
        data = {**shown.fields, **(changed or {})}
        return await self.http.post(shown.action, data=data, headers={**own, **(headers or {})})

    async def join(self, code: str, email: str = "") -> None:
        """Make the account that an invitation's (or, with `email`, a set-up's) code is for, and be signed in."""
        where = "setup" if email else "invite"
        page = await self.open(f"/account/{self.tenant}/{where}")
        given = {"secret": code, "name": "Ada", "password": self.password, **({"email": email} if email else {})}
        done = await self.send(form(page, f"/{where}"), given)
        assert done.status_code == 200, f"{done.status_code} {done.text[:3000]}"

    async def sign_in(self, page: httpx2.Response | None = None) -> httpx2.Response:
        """Fill in the login form (of `page`, which stands in the way of something); the page that comes."""
        page = page or await self.open(f"/account/{self.tenant}/login")
        return await self.send(form(page, "/login"), {"email": self.email, "password": self.password})

    async def consent(self, address: str) -> httpx2.Response:
        """The consent page for an authorization request; signs in on the way where that is asked."""
        page = await self.open(address)
        if any(one.action.endswith("/login") for one in forms(page)):
            page = await self.sign_in(page)
        return page

    async def agree(self, address: str, answer: str = "allow") -> dict[str, str]:
        """Answer an authorization request; what the client gets, as fields of its redirect."""
        page = await self.consent(address)
        if location(page):  # agreed to before
            return came(page)
        return came(await self.post(form(page, "/authorize"), {"answer": answer}))

    async def enter_code(self, code: str, answer: str = "allow") -> httpx2.Response:
        """Enter the code that a device shows, and answer."""
        page = await self.open(f"/account/{self.tenant}/device")
        if any(one.action.endswith("/login") for one in forms(page)):
            page = await self.sign_in(page)
        confirm = await self.send(form(page, "/device"), {"code": code})
        return await self.send(form(confirm, "/device/answer"), {"answer": answer})

    async def _follow(self, answer: httpx2.Response) -> httpx2.Response:
        for _ in range(5):
            where = urllib.parse.urljoin(str(answer.url), answer.headers.get("location", ""))
            if not answer.is_redirect or not where.startswith(f"{self.base_url}/"):
                break
            answer = await self.http.get(where)
        return answer


def location(answer: httpx2.Response) -> str:
    """Where a page leads to: by its status, or by itself. Empty: nowhere."""
    if answer.is_redirect:
        return str(answer.headers["location"])
    found = _REFRESH.search(answer.text)
    return "" if found is None else html.unescape(found[1])


def came(answer: httpx2.Response) -> dict[str, str]:
    """What a client gets with the redirect in `answer`. Fails where there is none, and shows the page."""
    where = location(answer)
    assert where, f"no redirect: {answer.status_code}\n{answer.text[:3000]}"
    fields = urllib.parse.parse_qsl(urllib.parse.urlsplit(where).query, keep_blank_values=True)
    assert len(dict(fields)) == len(fields), where
    return dict(fields)
