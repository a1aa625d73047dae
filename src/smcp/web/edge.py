"""A request for a page, from the route to the answer: what every page has in common, in one order.

Around it stands `control.app.Edge` (request id, Host and Origin). Here: the platform's rate, the tenant, for forms the
three checks of `web.csrf`, the session, the page's own handler; an error becomes a page, expected or not.
"""

import urllib.parse
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from starlette import requests, responses
from starlette.types import Receive, Scope, Send

from smcp.identity.accounts import accounts, browser, throttle, users
from smcp.kernel import errors, ids
from smcp.web import csrf, forms, services, shell, tickets

METHODS: Final = ("GET", "POST")


class Visit:
    """One request for a page."""

    def __init__(self, page: "Page", request: requests.Request, tenant: ids.TenantId) -> None:
        self._page = page
        self.request = request
        self.request_id: str = request.scope.get("smcp.request_id", "")
        self.tenant = tenant
        self.services = page.services
        self.browser = csrf.browser(request)
        self.found: browser.Found | None = None
        """The session that this browser has, and whose it is."""
        self.form: dict[str, str] = {}
        self.sets: list[Callable[[responses.Response], None]] = []
        """What is done to the answer, whichever it is: cookies."""

    @property
    def address(self) -> str:
        """Where it comes from."""
        return self.request.client.host if self.request.client else ""

    @property
    def agent(self) -> str:
        """What the browser says it is, shortened."""
        text = self.request.headers.get("user-agent", "")[:200]
        return text if text.isprintable() else ""

    @property
    def query(self) -> str:
        """The query string as it came."""
        return self.request.scope["query_string"].decode("latin-1")

    @property
    def posted(self) -> bool:
        """Was a form sent?"""
        return self.request.method == "POST"

    @property
    def session(self) -> browser.Session:
        """The session, on pages that nobody sees without one."""
        return self._required().session

    @property
    def user(self) -> users.User:
        """Whose session it is."""
        return self._required().user

    def _required(self) -> browser.Found:
        if self.found is None:
            raise RuntimeError("this page has to ask for a session first")
        return self.found

    @property
    def origin(self) -> str:
        """The origin that the browser sees: the edge has checked that it is one of ours."""
        return f"{self.request.scope['scheme']}://{self.request.headers.get('host', '')}".lower()

    @property
    def device(self) -> str:
        """The mark of a device that was signed in from before; empty where there is none."""
        return self.request.cookies.get(_device_cookie(self), "")

    async def enter(self, signed: accounts.SignedIn) -> None:
        """Open a session for who has just signed in: a new one always, and the one that was there ends."""
        name = browser.cookie_name(self.tenant, secure=csrf.secure(self.request))
        opened = await self.services.sessions.open(
            signed.user,
            signed.methods,
            address=self.address,
            agent=self.agent,
            previous=self.request.cookies.get(name, ""),
        )
        self._cookie(name, opened.cookie)
        self._cookie(_device_cookie(self), signed.device, int(throttle.DEVICE_S))

    def leave(self) -> None:
        """Have the browser forget its session."""
        name = browser.cookie_name(self.tenant, secure=csrf.secure(self.request))
        self._cookie(name, "", 0)

    def _cookie(self, name: str, value: str, max_age: int | None = None) -> None:
        secure = csrf.secure(self.request)

        def change(answer: responses.Response) -> None:
            # Lax: an application's link to the authorization endpoint brings it along, another site's form does not.
            answer.set_cookie(name, value, max_age, path="/", secure=secure, httponly=True, samesite="lax")

        self.sets.append(change)

    def holder(self, form: str) -> str:
        """Whom a form's token and a step's ticket belong to: the session, or before there is one the browser."""
        if form in BEFORE or self.found is None:
            return f"browser:{self.browser}"
        return f"session:{self.found.session.id}"

    def token(self, form: str) -> str:
        """The hidden token of the form `form`."""
        return csrf.token(self.services.key, self.tenant, self.holder(form), form)

    def seal(self, step: tickets.Step, kept: tickets.Kept) -> str:
        """A ticket that this browser (or session) gets back with its next form."""
        return self._page.tickets.seal(self.tenant, step, self.holder(step.value), kept)

    def open(self, step: tickets.Step) -> tickets.Kept:
        """What the form's ticket holds. Raises `errors.BadRequest`."""
        return self._page.tickets.open(self.tenant, step, self.holder(step.value), self.form.get("ticket", ""))

    def page(
        self, template: str, *, status: int = 200, targets: Iterable[str] = (), popup: bool = False, **values: Any
    ) -> responses.Response:
        """The page of `template`, for this visitor."""
        return self._page.shell.page(
            template,
            status=status,
            targets=targets,
            popup=popup,
            tenant=self.tenant,
            base=f"/account/{self.tenant}",
            token=self.token,
            user=None if self.found is None else self.found.user,
            **values,
        )

    def page_signed_out(self, template: str, **values: Any) -> responses.Response:
        """The page of `template`, for a visitor whose session has just ended."""
        self.found = None
        return self.page(template, **values)

    def go(self, place: tickets.Place, query: str = "") -> responses.Response:
        """Go on at one of our own places."""
        return shell.redirect(place.path(self.tenant) + (f"?{query}" if query else ""))

    def done(self, path: str, word: str) -> responses.Response:
        """Go on at a page below the account, which tells that `word` was done."""
        return shell.redirect(f"/account/{self.tenant}/{path}?{urllib.parse.urlencode({'done': word})}")


BEFORE: Final = frozenset({"login", "second", "passkey", "setup", "invite", "sign-in"})
"""Forms and steps of people who are not signed in, or sign in anew: bound to the browser."""


def _device_cookie(visit: Visit) -> str:
    name = f"smcp_device_{visit.tenant}"
    return f"__Host-{name}" if csrf.secure(visit.request) else name


Handler = Callable[[Visit], Awaitable[responses.Response]]


class Page:
    """One route: an ASGI application."""

    def __init__(
        self,
        made: services.Services,
        shown: shell.Shell,
        kept: tickets.Tickets,
        handler: Handler,
        form: str,
    ) -> None:
        """`form` is the name of the form that is sent here; empty where none is."""
        self.services = made
        self.shell = shown
        self.tickets = kept
        self._handler = handler
        self._form = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = requests.Request(scope, receive)
        request_id: str = scope.get("smcp.request_id", "")
        try:
            answer = await self._answer(request)
        except errors.SmcpError as error:
            self.services.metrics.error("control", error.code)
            level = self.services.logger.warning if error.http_status >= 500 else self.services.logger.info
            level("refused", request_id=request_id, method=request.method, path=scope["path"], why=str(error))
            answer = self.shell.refusal(error, request_id)
        except Exception:
            # As `control.app.Edge` does for programs: told to the log in full, and to the person not at all.
            self.services.metrics.error("control", errors.SmcpError.code)
            self.services.logger.exception("unexpected error", request_id=request_id, path=scope["path"])
            answer = self.shell.refusal(errors.SmcpError(), request_id)
        await answer(scope, receive, send)

    async def _answer(self, request: requests.Request) -> responses.Response:
        if request.method not in METHODS:
            raise errors.MethodNotAllowed(headers=(("Allow", ", ".join(METHODS)),))
        self.services.limiter.platform()
        try:
            tenant = ids.any_tenant(request.path_params["tenant"])
        except errors.BadName:
            raise errors.NotFound(detail="tenant") from None
        await self.services.tenants.active(tenant)
        visit = Visit(self, request, tenant)
        if visit.posted:
            if not self._form:
                raise errors.MethodNotAllowed(headers=(("Allow", "GET"),))
            csrf.check_origin(request, self.services.public_url)
            visit.form = await forms.read(request)
        # Behind the form, which may take its time: a session that has ended meanwhile is none.
        name = browser.cookie_name(tenant, secure=csrf.secure(request))
        visit.found = await self.services.sessions.find(tenant, request.cookies.get(name, ""))
        if visit.posted:
            csrf.check_token(visit.form.get(csrf.FIELD, ""), visit.token(self._form))
        answer = await self._handler(visit)
        csrf.remember(request, answer, visit.browser)
        for change in visit.sets:
            change(answer)
        return answer
