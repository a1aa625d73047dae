"""The platform as a client of a hosted server: to probe a new deployment, and for `tools` and `call` of the admin API.

It offers no capabilities, so that nobody asks it anything; a legacy server that asks all the same gets no answer.
"""

import asyncio
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import calls, driver

_PAGES: Final = 100
_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Longest answer that is taken apart here, and longest list over all pages: decoded it takes many times as much."""
_CLIENT: Final = {"name": "smcp", "version": "1"}


class Server(msgspec.Struct, frozen=True):
    """What a hosted server said of itself."""

    versions: tuple[str, ...]
    capabilities: jsonrpc.Json
    info: jsonrpc.Json
    instructions: str = ""


class Peer:
    """Speaks to one instance."""

    def __init__(self, instance: driver.Instance, *, modern: bool, timeout_s: float) -> None:
        self._instance = instance
        self._modern = modern
        self._timeout_s = timeout_s

    async def request(self, method: str, params: jsonrpc.Json | None = None) -> jsonrpc.Json:
        """The result of a request.

        Raises `errors.RpcError` for an error response, `errors.ServerTimeout`, or `errors.ServerFailed`, also for an
        answer that is larger than the platform takes apart.
        """
        return (await self._request(method, params))[0]

    async def _request(self, method: str, params: jsonrpc.Json | None) -> tuple[jsonrpc.Json, int]:
        number, call = self._instance.calls.ask(method, jsonrpc.encode(self._with_meta(params or {})))
        try:
            async with asyncio.timeout(self._timeout_s):
                await call.completed()
                response = await self._read(call, method)
        except TimeoutError as error:
            raise errors.ServerTimeout(f"The hosted server did not answer {method} in time.") from error
        finally:
            self._instance.calls.cancel(number, "timed out")
            call.release()
        answer = jsonrpc.obj(jsonrpc.decode(response)) or {}
        failed = jsonrpc.obj(answer.get("error"))
        if failed is not None:
            data = {"code": call.code, "data": failed.get("data")}
            raise errors.RpcError(str(failed.get("message", ""))[:2000], data=data)
        result = jsonrpc.obj(answer.get("result"))
        if result is None:
            raise errors.ServerFailed(f"The hosted server's answer to {method} is not an object.")
        return result, len(response)

    @staticmethod
    async def _read(call: calls.Call, method: str) -> bytes:
        if call.failure is not None:
            raise call.failure
        size = len(call.response) if call.spooled is None else call.spooled.size
        if size > _ANSWER_BYTES:
            raise errors.ServerFailed(f"The hosted server's answer to {method} is larger than {_ANSWER_BYTES} bytes.")
        return call.response if call.spooled is None else jsonrpc.result(call.id, await call.spooled.whole())

    async def introduce(self) -> Server:
        """`server/discover`, or `initialize` and its notification. Raises as `request` does."""
        if self._modern:
            result = await self._discover()
            meta = jsonrpc.obj(result.get("_meta")) or {}
            info = jsonrpc.obj(meta.get("io.modelcontextprotocol/serverInfo")) or {}
            return _server(result, result.get("supportedVersions"), info)
        params = {"protocolVersion": eras.LEGACY[-1], "capabilities": {}, "clientInfo": _CLIENT}
        result = await self.request("initialize", params)
        self._instance.calls.tell("notifications/initialized")
        version = result.get("protocolVersion")
        spoken = list(eras.LEGACY[: eras.LEGACY.index(version) + 1]) if version in eras.LEGACY else [version]
        return _server(result, spoken, jsonrpc.obj(result.get("serverInfo")) or {})

    async def _discover(self) -> jsonrpc.Json:
        try:
            return await self.request("server/discover")
        except errors.RpcError as error:
            told = jsonrpc.obj((error.data or {}).get("data")) or {}
            refused = (error.data or {}).get("code") == errors.UnsupportedVersion.rpc_code
            if not refused or eras.MODERN[-1] not in jsonrpc.array(told.get("supported")):
                raise
            # It names the version that it was asked in: once more (MCP 2026-07-28, "Versioning").
            return await self.request("server/discover")

    async def tools(self) -> list[jsonrpc.Json]:
        """Every tool, over all pages. Raises as `request` does, also when there is no end of them."""
        found: list[jsonrpc.Json] = []
        left = _ANSWER_BYTES
        cursor: object = None
        for _ in range(_PAGES):
            result, size = await self._request("tools/list", {"cursor": cursor} if cursor else {})
            left -= size
            if left < 0:
                break
            found += [tool for one in jsonrpc.array(result.get("tools")) if (tool := jsonrpc.obj(one)) is not None]
            cursor = result.get("nextCursor")
            if not isinstance(cursor, str) or not cursor:
                return found
        raise errors.ServerFailed(
            f"The hosted server's list of tools has more than {_PAGES} pages or {_ANSWER_BYTES} bytes."
        )

    def _with_meta(self, params: jsonrpc.Json) -> jsonrpc.Json:
        if not self._modern:
            return params
        meta = {
            **(jsonrpc.obj(params.get("_meta")) or {}),
            eras.META_VERSION: eras.MODERN[-1],
            eras.META_CAPABILITIES: {},
            "io.modelcontextprotocol/clientInfo": _CLIENT,
        }
        return {**params, "_meta": meta}


def _server(result: jsonrpc.Json, versions: object, info: jsonrpc.Json) -> Server:
    return Server(
        versions=tuple(str(one) for one in jsonrpc.array(versions)),
        capabilities=jsonrpc.obj(result.get("capabilities")) or {},
        info=info,
        instructions=str(result.get("instructions", "")),
    )
