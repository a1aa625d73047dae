"""The one way from the command line to a platform: its admin API."""

import ipaddress
import threading
import urllib.parse
from collections.abc import Iterator
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
    """Speaks to one platform with one key. Use as a context manager."""

    def __init__(self, chosen: profiles.Chosen, *, timeout_s: float = 330.0, ca_file: str = "", own: str = "") -> None:
        """`ca_file`: the only issuers that are trusted (PEM). `own`: a certificate trusted beside the others."""
        import httpx2

        self._chosen = chosen
        self.stopping = threading.Event()
        """Set by another thread to end waiting in `wait_for`."""
        url = _checked(chosen)
        try:
            self._http = httpx2.Client(
                base_url=url,
                headers={"Authorization": f"Bearer {chosen.key}", "User-Agent": "smcp-cli"},
                timeout=httpx2.Timeout(timeout_s, connect=5.0),
                follow_redirects=False,
                verify=_trust(ca_file, own) if ca_file or own else True,
                # A key for this machine's platform never goes through a proxy.
                trust_env=not is_loopback(url),
            )
        except UnicodeEncodeError as error:
            raise failures.Failure("profiles", f"The key of {chosen.source} is not ASCII text.") from error

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

    def post(self, where: str, body: Json | None = None) -> Json:
        """POST `body` as JSON; without one, an empty body."""
        return self._call("POST", where, body=body)

    def send(self, where: str, chunks: Iterator[bytes]) -> Json:
        """POST a body of plain bytes, piece by piece."""
        return self._call("POST", where, content=chunks)

    def put(self, where: str, body: Json, **query: object) -> Json:
        """PUT `body` as JSON; `None` values are left out of the query."""
        return self._call("PUT", where, body=body, query=query)

    def delete(self, where: str) -> Json:
        """DELETE."""
        return self._call("DELETE", where)

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
    ) -> Json:
        import httpx2

        headers = {"Content-Type": "application/octet-stream"} if content is not None else None
        params = {name: str(value) for name, value in (query or {}).items() if value is not None}
        try:
            answer = self._http.request(verb, where, params=params, json=body, content=content, headers=headers)
        except httpx2.ConnectError as error:
            if (untrusted := _certificate_error(error)) is not None:
                raise failures.Failure(
                    "untrusted",
                    f"{self._chosen.url} shows a certificate that can't be trusted: {untrusted}.",
                    hint="If its issuer is your own: --cacert FILE, or SMCP_CA_FILE. Else do not use a key there.",
                    exit_code=failures.Exit.UNREACHABLE,
                ) from error
            raise failures.Failure(
                "unreachable",
                f"Nothing answers at {self._chosen.url} ({self._chosen.source}).",
                hint="Start the platform with 'smcp up', or choose another one with --profile.",
                exit_code=failures.Exit.UNREACHABLE,
            ) from error
        except httpx2.TimeoutException as error:
            raise failures.Failure(
                "timeout",
                f"{self._chosen.url} did not answer in time.",
                hint="Look at the platform's log, or retry.",
                exit_code=failures.Exit.UNREACHABLE,
            ) from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise failures.Failure(
                "unreachable",
                f"The connection to {self._chosen.url} broke ({type(error).__name__}).",
                hint="Is it an SMCP platform, and is it still running?",
                exit_code=failures.Exit.UNREACHABLE,
            ) from error
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


def _checked(chosen: profiles.Chosen) -> str:
    try:
        parts = urllib.parse.urlsplit(chosen.url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise failures.Failure(
            "profiles",
            f"'{chosen.url}' ({chosen.source}) is not the address of a platform: it looks like https://host[:port].",
            exit_code=failures.Exit.USAGE,
        )
    return chosen.url.rstrip("/")
