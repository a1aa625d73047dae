"""Reading what a page's form sends: one strict reading, bounded in size, number and time."""

import asyncio
import re
import urllib.parse
from collections.abc import Mapping
from typing import Final

from starlette import requests

from smcp.kernel import errors

LARGEST: Final = 65_536
"""Bytes of a form."""
_MOST: Final = 32
_BODY_S: Final = 20.0
_TYPE: Final = re.compile(r'application/x-www-form-urlencoded(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


async def read(request: requests.Request) -> dict[str, str]:
    """The form's fields. Raises `errors.SmcpError` with a 4xx status; a field twice is refused."""
    if _TYPE.fullmatch(request.headers.get("content-type", "")) is None:
        raise errors.UnsupportedMedia("Send the form as application/x-www-form-urlencoded.")
    try:
        async with asyncio.timeout(_BODY_S):
            data = await _bytes(request)
    except TimeoutError as error:
        raise errors.RequestTimeout from error
    except requests.ClientDisconnect as error:
        raise errors.BadRequest("The body ended early.") from error
    return _pairs(data, "form")


def query(request: requests.Request) -> dict[str, str]:
    """The query's parameters, in the same reading."""
    return _pairs(request.scope["query_string"], "query")


def line(fields: Mapping[str, str], name: str, longest: int = 512) -> str:
    """One line of text, without what is around it. Empty where it is missing, too long or holds control characters."""
    text = fields.get(name, "").strip()
    return text if len(text) <= longest and text.isprintable() else ""


async def _bytes(request: requests.Request) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST:
            raise errors.TooLarge(f"A form has at most {LARGEST} bytes.")
    return bytes(data)


def _pairs(data: bytes, what: str) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(
            data.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(data),
            errors="strict",
            max_num_fields=_MOST,
        )
    except ValueError as error:
        raise errors.BadRequest(f"The {what} is not well formed.") from error
    found = dict(pairs)
    if len(found) != len(pairs):
        raise errors.BadRequest(f"The {what} has the same field twice.")
    return found
