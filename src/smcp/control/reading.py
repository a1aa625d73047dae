"""Reading a request: path, query and body, each in one strict way.

What is unknown is refused, because a misspelt `expires_in_days` must not make a key that never expires; what two
readers could take differently (a key or a query parameter twice) is refused, because the second reader may be a proxy's
rule.
"""

import asyncio
import re
import urllib.parse
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar

import msgspec
from starlette import requests

from smcp.control import endpoint
from smcp.kernel import errors, jsonrpc, settings
from smcp.stores import bucket_model

T = TypeVar("T", bound=msgspec.Struct)

_JSON: Final = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)
_LARGE_S: Final = 6 * 3600.0
_BINARY: Final = "application/octet-stream"


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


def binary(request: requests.Request, config: settings.Settings) -> endpoint.Binary:
    """The body as it is, at most deploy.max_upload_bytes, still unread: who asks for it has been allowed by then.

    Raises `errors.UnsupportedMedia` and `errors.TooLarge`. The iterator raises `errors.TooLarge`,
    `errors.RequestTimeout` when nothing comes for gateway.body_timeout_s or all of it takes longer than
    deploy.timeout_s, and `errors.BadRequest` when it ends early.
    """
    most = config.deploy.max_upload_bytes
    length = _announced(request, most)
    return endpoint.Binary(_chunks(request, most, config.gateway.body_timeout_s, config.deploy.timeout_s), length)


def large(request: requests.Request, gateway: settings.Gateway) -> endpoint.Large:
    """As `binary`, with the bounds of one object: its size, and six hours for all of it."""
    most = bucket_model.MOST_PUT
    length = _announced(request, most)
    return endpoint.Large(_chunks(request, most, gateway.body_timeout_s, _LARGE_S), length)


def _announced(request: requests.Request, most: int) -> int | None:
    if request.headers.get("content-type", "").strip().lower() != _BINARY:
        raise errors.UnsupportedMedia(f"Send the body as {_BINARY}.")
    _check_length(request, most)
    length = request.headers.get("content-length")
    return None if length is None else int(length)


async def _chunks(request: requests.Request, most: int, stall_s: float, all_s: float) -> AsyncGenerator[bytes]:
    size = 0
    deadline = asyncio.get_running_loop().time() + all_s
    stream = request.stream()
    try:
        while True:
            async with (
                asyncio.timeout(stall_s),
                asyncio.timeout_at(deadline),
            ):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            size += len(chunk)
            if size > most:
                raise errors.TooLarge(f"The body has at most {most} bytes.")
            if chunk:
                yield chunk
    except TimeoutError as error:
        raise errors.RequestTimeout from error
    except requests.ClientDisconnect as error:
        raise errors.BadRequest("The body ended early.") from error


def _check_length(request: requests.Request, most: int) -> None:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most:
        raise errors.TooLarge(f"The body has at most {most} bytes.")


async def _bytes(request: requests.Request, most: int) -> bytes:
    _check_length(request, most)
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
