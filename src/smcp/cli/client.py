"""The one way from the command line to a platform: its admin API."""

import contextlib
import ipaddress
import threading
import urllib.parse
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from smcp.cli import failures, profiles

if TYPE_CHECKING:
    import ssl

    import httpx2

Json = dict[str, Any]

_PAGE: Final = 100
_EXITS: Final = {
    400: failures.Exit.USAGE,
    401: failures.Exit.REFUSED,
    403: failures.Exit.REFUSED,
    404: failures.Exit.NOT_FOUND,
}


def path(*segments: str) -> str:
    """A path below /api/v1; each segment is quoted whole, so that none can climb out of its place."""
    if dots := {".", ".."} & set(segments):  # URL libraries resolve these, quoted or not (RFC 3986, 5.2.4)
        raise failures.Failure("usage", f"'{dots.pop()}' is not a name.", exit_code=failures.Exit.USAGE)
    return "/api/v1/" + "/".join(urllib.parse.quote(segment, safe="") for segment in segments)


class Client:
    """Speaks to one platform with one key, or with a login's tokens. Use as a context manager."""

    def __init__(
        self,
        chosen: profiles.Chosen,
        *,
        known: profiles.Profiles | None = None,
        timeout_s: float = 330.0,
        ca_file: str = "",
        own: str = "",
    ) -> None:
        """`known`: where a login's tokens are kept, and new ones are put. `ca_file`: the only issuers that are trusted
        (PEM). `own`: a certificate trusted beside the others."""
        from smcp.cli import bearer

        self._chosen = chosen
        self.stopping = threading.Event()
        """Set by another thread to end waiting in `wait_for`."""
        if chosen.tokens is None and not (chosen.key.isascii() and chosen.key.isprintable()):
            raise failures.Failure("profiles", f"The key of {chosen.source} is not ASCII text.")
        self._http = connection(chosen.url, chosen.source, timeout_s=timeout_s, ca_file=ca_file, own=own)
        self._http.auth = bearer.bearer(self._http, chosen, known)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def url(self) -> str:
        """The platform's address."""
        return self._chosen.url

    @property
    def tenant(self) -> str:
        """The tenant of the key in use."""
        return self._chosen.tenant

    def get(self, where: str, **query: object) -> Json:
        """GET; `None` values are left out of the query."""
        return self._call("GET", where, query=query)

    def post(self, where: str, body: Json | None = None, **query: object) -> Json:
        """POST `body` as JSON; without one, an empty body. `None` values are left out of the query."""
        return self._call("POST", where, body=body, query=query)

    def send(
        self, where: str, chunks: Iterator[bytes], *, verb: str = "POST", size: int | None = None, **query: object
    ) -> Json:
        """POST, or PUT, a body of plain bytes, piece by piece; `None` values are left out of the query.

        `size`: how many bytes that will be, where it is known: what is too large is then refused before.
        """
        return self._call(verb, where, content=chunks, size=size, query=query)

    def put(self, where: str, body: Json, **query: object) -> Json:
        """PUT `body` as JSON; `None` values are left out of the query."""
        return self._call("PUT", where, body=body, query=query)

    def delete(self, where: str, **query: object) -> Json:
        """DELETE."""
        return self._call("DELETE", where, query=query)

    @contextlib.contextmanager
    def download(self, where: str, **query: object) -> Generator[Iterator[bytes]]:
        """GET plain bytes, piece by piece. Raises in the middle when not all of them come."""
        with (
            told(self._chosen.url, self._chosen.source),
            self._http.stream("GET", where, params=_given(query)) as answer,
        ):
            if not answer.is_success:
                answer.read()
                self._read(answer)
            yield answer.iter_raw()

    def items(self, where: str, *, after: object = None, limit: int | None = None, **query: object) -> Iterator[Json]:
        """The items of a list, page by page; `limit` in all (None: every one)."""
        left = limit
        while left is None or left > 0:
            page = self.get(where, after=after, limit=_PAGE if left is None else min(_PAGE, left), **query)
            items: list[Json] = page.get("items") or []
            yield from items
            left = None if left is None else left - len(items)
            before, after = after, page.get("next")
            # A page may be empty and not be the last one.
            if after is None or after == before:
                return

    def wait_for(self, seconds: float) -> bool:
        """Wait between two questions; False when it is time to give up."""
        return not self.stopping.wait(seconds)

    def _call(
        self,
        verb: str,
        where: str,
        *,
        query: Json | None = None,
        body: Json | None = None,
        content: Iterator[bytes] | None = None,
        size: int | None = None,
    ) -> Json:
        headers = {"Content-Type": "application/octet-stream"} if content is not None else {}
        if size is not None:
            headers["Content-Length"] = str(size)
        with told(self._chosen.url, self._chosen.source):
            answer = self._http.request(
                verb, where, params=_given(query or {}), json=body, content=content, headers=headers
            )
        return self._read(answer)

    def _read(self, answer: "httpx2.Response") -> Json:
        if answer.status_code == 204:
            return {}
        try:
            document = as_object(answer.json())
        except ValueError:
            document = None
        if document is None:
            raise failures.Failure(
                "not_smcp",
                f"{self._chosen.url} answered {answer.status_code} with something that is not SMCP's admin API.",
                hint=f"Check the address in {self._chosen.source}.",
                exit_code=failures.Exit.UNREACHABLE,
            )
        if answer.is_success:
            return document
        raise self._failure(answer.status_code, document)

    def _failure(self, status: int, document: Json) -> failures.Failure:
        error = mapping(document.get("error"))
        message = str(error.get("message") or f"The platform answered {status}.")
        hint = ""
        if status == 401:
            message = f"The key of {self._chosen.source} was refused: it is wrong, expired or revoked."
            hint = "Choose another profile with --profile; an admin makes a new key with 'smcp key create'."
            if self._chosen.tokens is not None:
                message = f"The login of {self._chosen.source} was refused: it has ended or was revoked."
                hint = f"Log in again: smcp login {self._chosen.url} --tenant {self._chosen.tenant}"
        elif status in (403, 404):
            hint = f"Asked with {self._chosen.source}; --profile chooses another one."
        return failures.Failure(
            str(error.get("code") or "failed"),
            message,
            hint=hint,
            exit_code=_EXITS.get(status, failures.Exit.FAILED),
            request_id=str(error.get("request_id") or ""),
            data=error.get("data"),
        )


@contextlib.contextmanager
def told(url: str, source: str) -> Generator[None]:
    """Failures of the connection, as people are told of them."""
    import httpx2

    try:
        yield
    except httpx2.ConnectError as error:
        if (untrusted := _certificate_error(error)) is not None:
            raise failures.Failure(
                "untrusted",
                f"{url} shows a certificate that can't be trusted: {untrusted}.",
                hint="If its issuer is your own: --cacert FILE, or SMCP_CA_FILE. Else do not use a key there.",
                exit_code=failures.Exit.UNREACHABLE,
            ) from error
        raise failures.Failure(
            "unreachable",
            f"Nothing answers at {url} ({source}).",
            hint="Start the platform with 'smcp up', or choose another one with --profile.",
            exit_code=failures.Exit.UNREACHABLE,
        ) from error
    except httpx2.TimeoutException as error:
        raise failures.Failure(
            "timeout",
            f"{url} did not answer in time.",
            hint="Look at the platform's log, or retry.",
            exit_code=failures.Exit.UNREACHABLE,
        ) from error
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise failures.Failure(
            "unreachable",
            f"The connection to {url} broke ({type(error).__name__}).",
            hint="Is it an SMCP platform, and is it still running?",
            exit_code=failures.Exit.UNREACHABLE,
        ) from error


def connection(url: str, source: str, *, timeout_s: float, ca_file: str = "", own: str = "") -> "httpx2.Client":
    """A way to the platform at `url`, which `source` named, without a credential. Raises `Failure` for a wrong one."""
    import httpx2

    url = _checked(url, source)
    return httpx2.Client(
        base_url=url,
        headers={"User-Agent": "smcp-cli"},
        timeout=httpx2.Timeout(timeout_s, connect=5.0),
        follow_redirects=False,
        verify=_trust(ca_file, own) if ca_file or own else True,
        # A key for this machine's platform never goes through a proxy.
        trust_env=not is_loopback(url),
    )


def _given(query: Json) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def as_object(value: object) -> Json | None:
    """`value` where it is a JSON object."""
    return cast("Json", value) if isinstance(value, dict) else None


def mapping(value: object) -> Json:
    """As `as_object`, and an empty object for anything else: the platform may be newer than this command line."""
    return as_object(value) or {}


def is_loopback(url: str) -> bool:
    """Does `url` name this machine?"""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trust(ca_file: str, own: str) -> "ssl.SSLContext":
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca_file or None)
        if own:
            context.load_verify_locations(own)
            # What stands in that file is trusted itself, whoever issued it.
            context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    except OSError as error:  # ssl.SSLError is one
        raise failures.Failure(
            "ca_file",
            f"There are no certificates to trust in {ca_file or own}: {error.strerror or 'it is not PEM'}.",
            hint="--cacert or SMCP_CA_FILE names a file of issuers' certificates in PEM.",
            exit_code=failures.Exit.USAGE,
        ) from error
    return context


def _certificate_error(error: BaseException | None) -> str | None:
    """Why a server's certificate was refused; None where something else is wrong."""
    import ssl

    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return str(error.verify_message)
        error = error.__cause__ or error.__context__
    return None


def _checked(url: str, source: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise failures.Failure(
            "profiles",
            f"'{url}' ({source}) is not the address of a platform: it looks like https://host[:port].",
            exit_code=failures.Exit.USAGE,
        )
    return url.rstrip("/")
