"""The admin API as one ASGI application, with the pages that are handed in beside it."""

import time
from collections.abc import Sequence

from starlette import routing
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smcp.control import answers, endpoint, openapi, routes, services, walk
from smcp.kernel import errors, ids, observe
from smcp.tenancy import limits


def build(services: services.Services, pages: Sequence[routing.BaseRoute] = ()) -> ASGIApp:
    """The application: every endpoint of `control.routes`, then `pages` (human pages, made by `web`)."""
    document = openapi.document(routes.ENDPOINTS, services.version)
    by_path: dict[str, dict[str, endpoint.Endpoint]] = {}
    for one in routes.ENDPOINTS:
        by_path.setdefault(one.path, {})[one.method] = one
    paths = [routing.Route(_pattern(path), walk.Path(services, ends, document)) for path, ends in by_path.items()]
    return Edge(routing.Router([*paths, *pages], redirect_slashes=False, default=_no_such_path), services)


def _pattern(path: str) -> str:
    for name in endpoint.DEEP:
        path = path.replace(f"{{{name}}}", f"{{{name}:path}}")
    return path


class Edge:
    """Around everything: the request id, Host and Origin, and the one place where an error becomes an answer."""

    def __init__(self, inner: ASGIApp, services: services.Services) -> None:
        self._inner = inner
        self._services = services
        self._received = services.metrics.counter(observe.Metric.HTTP_IN, surface="control")
        self._sent = services.metrics.counter(observe.Metric.HTTP_OUT, surface="control")
        self._active = services.metrics.gauge(observe.Metric.HTTP_ACTIVE, surface="control")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request_id = scope["smcp.request_id"] = ids.new("req")
        status = 0
        began = time.monotonic()
        self._active.inc()

        async def receive_on() -> Message:
            message = await receive()
            self._received.inc(len(message.get("body", b"")))
            return message

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                header = (answers.REQUEST_ID.lower().encode(), request_id.encode())
                standing: limits.Standing | None = scope.get(answers.STANDING)
                fields = () if standing is None else standing.fields()
                message = {**message, "headers": [*message["headers"], header, *fields]}
            self._sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            self._services.hosts.check(*_host_and_origin(scope))
            self._look_behind_proxies(scope)
            await self._inner(scope, receive_on, send_on)
        except errors.SmcpError as error:
            self._services.metrics.error("control", error.code)
            if status:
                raise
            self._tell(error, request_id, scope)
            await answers.refusal(error, request_id)(scope, receive, send_on)
        except Exception:
            # The last line of defence: what a handler did not expect ends here, is told to the log in full and to
            # the caller not at all.
            self._services.metrics.error("control", errors.SmcpError.code)
            self._services.logger.exception("unexpected error", request_id=request_id, path=scope["path"])
            if status:
                raise
            await answers.refusal(errors.SmcpError(), request_id)(scope, receive, send_on)
        finally:
            self._active.inc(-1)
            self._count(status)
            self._services.metrics.answered("control", scope["method"], status, time.monotonic() - began)

    def _look_behind_proxies(self, scope: Scope) -> None:
        if self._services.hosts.proxied:
            peer, port = scope.get("client") or ("", 0)
            seen = self._services.hosts.seen(peer, scope["scheme"], scope["headers"])
            scope["client"], scope["scheme"] = (seen.address, 0 if seen.address != peer else port), seen.scheme

    def _tell(self, error: errors.SmcpError, request_id: str, scope: Scope) -> None:
        level = self._services.logger.warning if error.http_status >= 500 else self._services.logger.info
        level("refused", request_id=request_id, method=scope["method"], path=scope["path"], why=str(error))

    def _count(self, status: int) -> None:
        if status:
            kind = f"{status // 100}xx"
            self._services.metrics.counter(observe.Metric.HTTP_REQUESTS, surface="control", status=kind).inc()


def _host_and_origin(scope: Scope) -> tuple[str | None, str | None]:
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in (b"host", b"origin"):
            if name in found:
                raise errors.HostRefused(detail=f"two {name.decode()} headers")
            found[name] = value.decode("latin-1")
    return found.get(b"host"), found.get(b"origin")


async def _no_such_path(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        raise errors.MethodNotFound("There is no such path. /api/docs lists all of them.")
    await routing.Router().not_found(scope, receive, send)
