"""The OpenAPI 3.1 document, made from the endpoints themselves: what is served is what is documented.

tests/golden/openapi.json is the checked-in copy; a test compares. After a change,
`python -m smcp.control.openapi > tests/golden/openapi.json` brings it up to date.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from smcp.access import policy
from smcp.control import endpoint, routes, views
from smcp.kernel import errors

_REF: Final = "#/components/schemas/{name}"
_RESPONSE: Final = "#/components/responses/Error{}"
_LISTING: Final = re.compile(r"Listing_(\w+)_|Listing\[(\w+)\]")
_ALWAYS: Final[tuple[type[errors.SmcpError], ...]] = (
    errors.BadRequest,
    errors.HostRefused,
    errors.RequestTimeout,
    errors.TooLarge,
    errors.SmcpError,
)
_IDENTIFIED: Final[tuple[type[errors.SmcpError], ...]] = (
    errors.Unauthenticated,
    errors.TenantSuspended,
    errors.RateLimited,
    errors.Unavailable,
)
_DECIDED: Final[tuple[type[errors.SmcpError], ...]] = (errors.Forbidden, errors.NotFound)
_WRITING: Final[tuple[type[errors.SmcpError], ...]] = (
    errors.UnsupportedMedia,
    errors.QuotaExceeded,
    errors.Conflict,
)
_PARAMETERS: Final[Mapping[str, str]] = {
    "tenant": "A tenant's id.",
    "server": "A server's name.",
    "client": "An OAuth client's `ref`: its id, or `document-…` where that is a URL.",
    "key": "An API key's id.",
    "user": "A person's id, `user-…`.",
    "invitation": "An invitation's id, `inv-…`.",
    "role": "A role's name.",
    "operation": "An operation's id.",
    "secret": "A secret's name.",
    "namespace": "A KV namespace's name.",
    "bucket": "A bucket's name.",
    "object": "An object's key, each of its bytes that is no letter or digit percent-encoded.",
    "item": "A key of a KV namespace, each of its bytes that is no letter or digit percent-encoded.",
}
_ABOUT: Final = """The admin API of SMCP, which hosts MCP servers for many tenants.

Send an API key as `Authorization: Bearer smcp_…`. Unknown keys and query parameters are refused. Errors have one
shape, with a stable `code` and a `request_id` that finds the request in the platform's log (also in the header
`SMCP-Request-Id`). A resource of another tenant answers as one that does not exist. Operators who act on a tenant's
resource may say why in `SMCP-Reason`; the tenant's audit trail tells it in any case."""


def document(endpoints: Iterable[endpoint.Endpoint], version: str) -> dict[str, Any]:
    """The document of these endpoints."""
    listed = tuple(endpoints)
    schemas = _Schemas(listed)
    paths: dict[str, dict[str, Any]] = {}
    for one in listed:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    made = {
        "openapi": "3.1.0",
        "info": {
            "title": "SMCP admin API",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(one) for one in listed)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": _responses(listed),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `smcp_…`."},
            },
        },
    }
    # msgspec names a generic struct after its parameters; a client made from this document gets `TenantList`.
    text = _LISTING.sub(lambda match: f"{match[1] or match[2]}List", msgspec.json.encode(made).decode())
    return msgspec.json.decode(text)


def raised(one: endpoint.Endpoint) -> tuple[type[errors.SmcpError], ...]:
    """Every error that a caller of `one` can see, each once, by status and code."""
    found = {*_ALWAYS, *one.raises}
    if not isinstance(one.access, endpoint.Open):
        found.update(_IDENTIFIED)
    if isinstance(one.access, policy.Action):
        found.update(_DECIDED)
    if one.method != "GET":
        found.update(_WRITING)
    if one.parameters:
        found.add(errors.BadName)
    found.update((errors.InvalidParams, errors.ParseError, errors.TooDeep, errors.UnsupportedMedia))
    return tuple(sorted(found, key=lambda error: (error.http_status, error.code)))


class _Schemas:
    """The JSON Schemas of every body, query and answer, by type."""

    def __init__(self, endpoints: tuple[endpoint.Endpoint, ...]) -> None:
        types: list[Any] = [views.Error]
        for one in endpoints:
            types += [one.query] if issubclass(one.body, endpoint.Binary) else [one.body, one.query]
            if one.answer not in (None, endpoint.Raw, endpoint.Stream):
                types.append(one.answer)
        unique = list(dict.fromkeys(types))
        found, components = msgspec.json.schema_components(unique, ref_template=_REF)
        self._by_type = dict(zip(unique, found, strict=True))
        self._raw = components
        queries = {ref["$ref"].rsplit("/", 1)[1] for ref in (self._by_type[one.query] for one in endpoints)}
        self.components = {name: one for name, one in sorted(components.items()) if name not in queries}

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema (a reference, for structs) of a type."""
        return self._by_type[kind]

    def properties(self, kind: Any) -> dict[str, dict[str, Any]]:
        """A struct's fields with their schemas."""
        return self._raw[self._by_type[kind]["$ref"].rsplit("/", 1)[1]]["properties"]


def _operation(one: endpoint.Endpoint, schemas: _Schemas) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": f"{_tag(one)}.{getattr(one.handler, '__name__', '')}",
        "tags": [_tag(one)],
        "summary": one.summary,
        "description": one.description or f"{one.summary}.",
        **_access(one),
        "parameters": _parameters(one, schemas),
        "x-smcp-errors": [error.code for error in raised(one)],
        "responses": {str(one.status): _answer(one, schemas), **_refusals(one)},
    }
    if issubclass(one.body, endpoint.Binary):
        plain = {"schema": {"type": "string", "format": "binary"}}
        made["requestBody"] = {"required": True, "content": {"application/octet-stream": plain}}
    elif one.body is not endpoint.Nothing:
        content: dict[str, Any] = {"schema": schemas.of(one.body)}
        if one.body_example:
            content["example"] = one.body_example
        required = any(field.required for field in msgspec.structs.fields(one.body))
        made["requestBody"] = {"required": required, "content": {"application/json": content}}
    return made


def _access(one: endpoint.Endpoint) -> dict[str, Any]:
    if isinstance(one.access, policy.Action):
        roles = [role.value for role in policy.Role if one.access in policy.GRANTS[role]]
        return {"x-smcp-action": one.access.value, "x-smcp-roles": roles, "security": [{"key": []}]}
    if isinstance(one.access, endpoint.AnyCredential):
        return {"x-smcp-any-credential": one.access.reason, "security": [{"key": []}]}
    return {"x-smcp-open": one.access.reason, "security": []}


def _parameters(one: endpoint.Endpoint, schemas: _Schemas) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": {"type": "string"}}
        for name in one.parameters
    ]
    if one.query is not endpoint.Nothing:
        for name, schema in schemas.properties(one.query).items():
            rest = {key: value for key, value in schema.items() if key != "description"}
            made.append({"name": name, "in": "query", "description": schema.get("description", ""), "schema": rest})
    return made


def _answer(one: endpoint.Endpoint, schemas: _Schemas) -> dict[str, Any]:
    if one.answer is None:
        return {"description": "Done; no body."}
    if one.answer is endpoint.Raw:
        return {"description": "Plain text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    if one.answer is endpoint.Stream:
        plain = {"schema": {"type": "string", "format": "binary"}}
        return {"description": "The bytes.", "content": {"application/octet-stream": plain}}
    content: dict[str, Any] = {"schema": schemas.of(one.answer)}
    if one.answer_example is not None:
        content["example"] = one.answer_example
    formats: dict[str, Any] = {"application/json": content}
    if one.csv:
        formats["text/csv"] = {"schema": {"type": "string"}}
    return {"description": "Done." if one.status < 202 else "Accepted.", "content": formats}


def _refusals(one: endpoint.Endpoint) -> dict[str, Any]:
    return {str(error.http_status): {"$ref": _RESPONSE.format(error.http_status)} for error in raised(one)}


def _responses(endpoints: tuple[endpoint.Endpoint, ...]) -> dict[str, Any]:
    """What a status means anywhere in this API; `x-smcp-errors` of an operation names the codes it can have there."""
    by_status: dict[int, set[type[errors.SmcpError]]] = {}
    for error in {error for one in endpoints for error in raised(one)}:
        by_status.setdefault(error.http_status, set()).add(error)
    return {f"Error{status}": _refusal(by_status[status]) for status in sorted(by_status)}


def _refusal(found: set[type[errors.SmcpError]]) -> dict[str, Any]:
    listed = sorted(found, key=lambda error: error.code)
    example = {"code": listed[0].code, "message": listed[0].text, "request_id": "req-01kaq3v7q0zj1x5w9n2c8d4f6g"}
    content = {"schema": {"$ref": _REF.format(name=views.Error.__name__)}, "example": {"error": example}}
    return {
        "description": "\n".join(f"`{error.code}`: {error.text}" for error in listed),
        "content": {"application/json": content},
    }


def _tag(one: endpoint.Endpoint) -> str:
    return one.handler.__module__.rsplit(".", 1)[1]


def rendered(version: str) -> str:
    """The document as text that diffs well."""
    made = msgspec.json.encode(document(routes.ENDPOINTS, version))
    return msgspec.json.format(made, indent=2).decode() + "\n"


if __name__ == "__main__":
    from importlib import metadata

    sys.stdout.write(rendered(metadata.version("smcp")))
