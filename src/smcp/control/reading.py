"""Reading a request: path, query and body, each in one strict way.

What is unknown is refused, because a misspelt `expires_in_days` must not make a key that never expires; what two
readers could take differently (a key or a query parameter twice) is refused, because the second reader may be a proxy's
rule.
"""

import asyncio
import re
import urllib.parse
from typing import Any, Final, TypeVar

import msgspec
from starlette import requests

from smcp.control import endpoint
from smcp.kernel import errors, jsonrpc, settings

T = TypeVar("T", bound=msgspec.Struct)

_JSON: Final = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


def path(parts: dict[str, str]) -> dict[str, str]:
    """The path's parameters, each through the parser of its name."""
    return {name: endpoint.PARAMETERS[name](text) for name, text in parts.items()}


def query(raw: bytes, into: type[T]) -> T:
    """The query string as `into`. Raises `errors.InvalidParams`."""
    try:
        text = raw.decode("ascii")
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=20
        )
    except ValueError as error:
        raise errors.InvalidParams("The query string is not well formed.") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise errors.InvalidParams("The query has the same parameter twice.")
    return _convert(found, into, "query", strict=False)


async def body(request: requests.Request, into: type[T], gateway: settings.Gateway) -> T:
    """The body as `into`; an empty one counts as `{}`. Raises `errors.SmcpError` with a 4xx status."""
    try:
        async with asyncio.timeout(gateway.body_timeout_s):
            data = await _bytes(request, gateway.max_body_bytes)
    except TimeoutError as error:
        raise errors.RequestTimeout from error
    except requests.ClientDisconnect as error:
        raise errors.BadRequest("The body ended early.") from error
    if not data:
        return _convert({}, into, "body")
    if _JSON.fullmatch(request.headers.get("content-type", "")) is None:
        raise errors.UnsupportedMedia
    tree = jsonrpc.strict_json(data, max_depth=gateway.max_depth)
    if type(tree) is not dict:
        raise errors.InvalidParams("The body is a JSON object.")
    return _convert(tree, into, "body")  # pyright: ignore[reportUnknownArgumentType] - keys of JSON objects are text


async def _bytes(request: requests.Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise errors.TooLarge(f"The body has at most {most} bytes.")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise errors.TooLarge(f"The body has at most {most} bytes.")
    return bytes(data)


def _convert(found: dict[str, Any], into: type[T], where: str, *, strict: bool = True) -> T:
    try:
        return msgspec.convert(found, into, strict=strict)
    except msgspec.ValidationError as error:
        raise errors.InvalidParams(f"In the {where}: {error}.") from error
