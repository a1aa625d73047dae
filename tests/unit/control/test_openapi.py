"""The document says what is served, and what is served is as the document says."""

import pathlib
import re
from importlib import metadata
from typing import Any, Final

import jsonschema_rs
import msgspec
import pytest

from smcp.control import endpoint, openapi, routes
from unit.control import paths
from unit.control import world as worlds

GOLDEN: Final = pathlib.Path(__file__).parents[2] / "golden" / "openapi.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def _document() -> dict[str, Any]:
    return msgspec.json.decode(GOLDEN.read_bytes())


def _validator(schema: dict[str, Any], document: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$schema": _DIALECT, **schema, "components": document["components"]})


def _response(document: dict[str, Any], one: endpoint.Endpoint, status: int) -> dict[str, Any]:
    response = document["paths"][one.path][one.method.lower()]["responses"][str(status)]
    if "$ref" in response:
        return document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    return response


@pytest.mark.requirement("control:openapi:checked-in")
async def test_the_checked_in_document_is_the_one_that_is_served(world: worlds.World) -> None:
    assert GOLDEN.read_text("utf-8") == openapi.rendered(metadata.version("smcp")), (
        "run `python -m smcp.control.openapi > tests/golden/openapi.json`"
    )
    served = (await world.client.get("/api/v1/openapi.json")).json()
    assert served["info"]["version"] == world.parts.version
    served["info"]["version"] = metadata.version("smcp")
    assert served == _document()


@pytest.mark.requirement("control:openapi:complete")
def test_every_operation_has_words_an_action_its_errors_and_examples() -> None:
    document = _document()
    for one in routes.ENDPOINTS:
        told = document["paths"][one.path][one.method.lower()]
        assert told["summary"][0].isupper()
        assert told["description"]
        assert len({"x-smcp-action", "x-smcp-open", "x-smcp-any-credential"} & set(told)) == 1
        assert set(told["x-smcp-errors"]) == {error.code for error in openapi.raised(one)}
        if issubclass(one.body, endpoint.Binary):
            schema = told["requestBody"]["content"]["application/octet-stream"]["schema"]
            assert schema == {"type": "string", "format": "binary"}
        elif one.body is not endpoint.Nothing:
            example = told["requestBody"]["content"]["application/json"]["example"]
            schema = told["requestBody"]["content"]["application/json"]["schema"]
            _validator(schema, document).validate(example)
        if one.answer not in (None, endpoint.Raw, endpoint.Stream) and one.path != "/api/v1/openapi.json":
            content = _response(document, one, one.status)["content"]["application/json"]
            _validator(content["schema"], document).validate(content["example"])


@pytest.mark.requirement("control:openapi:references")
def test_every_reference_in_the_document_leads_somewhere_and_every_schema_is_used() -> None:
    text = GOLDEN.read_text("utf-8")
    document = _document()
    named = set(re.findall(r'"#/components/(\w+)/([^"]+)"', text))
    held = {(kind, name) for kind in ("schemas", "responses") for name in document["components"][kind]}
    assert named == held


@pytest.mark.requirement("control:openapi:true")
async def test_every_successful_answer_is_as_the_document_says(world: worlds.World) -> None:
    document = _document()
    for one in routes.ENDPOINTS:
        who = "operator" if one.path.startswith("/metrics") or "tenants" in one.path.split("/")[-2:] else "acme/admin"
        if one.path.endswith(("/suspend", "/resume", "/plan", "v1/usage", "/setup")):
            who = "operator"
        parts = {
            "tenant": worlds.OWN,
            "server": "time",
            "client": await world.fresh_client(worlds.OWN),
            "key": await world.fresh_key(worlds.OWN),
            "operation": world.operation,
            "secret": worlds.SECRET,
            **await world.fresh_people(worlds.OWN),
        }
        answer = await world.send(one.method, paths.filled(one, parts), who, **paths.options(one))
        if one.method != "GET":
            await world.restore()
        assert answer.status_code == one.status, (paths.name(one), answer.text)
        if one.answer is None:
            assert answer.content == b""
        elif one.answer is endpoint.Stream:
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-length"] == str(len(answer.content))
        elif one.answer is not endpoint.Raw:
            schema = _response(document, one, one.status)["content"]["application/json"]["schema"]
            _validator(schema, document).validate(answer.json())


@pytest.mark.requirement("control:openapi:true")
async def test_every_refusal_is_as_the_document_says(world: worlds.World) -> None:
    document = _document()
    schema = _validator({"$ref": "#/components/schemas/Error"}, document)
    for one in routes.ENDPOINTS:
        codes = {error.code for error in openapi.raised(one)}
        parts = {
            "tenant": worlds.OWN,
            "server": "none",
            "key": "key-000000000000",
            "operation": "op-none",
            "secret": "NONE",
        }
        for who in (None, "globex/admin", "acme/read_only", "acme/admin"):
            for sent in ({"content": b"{", "headers": {"Content-Type": "application/json"}}, paths.options(one)):
                answer = await world.send(one.method, paths.filled(one, parts), who, **sent)
                if answer.is_success:
                    continue
                schema.validate(answer.json())
                error = answer.json()["error"]
                assert error["code"] in codes, (paths.name(one), error)
                assert error["request_id"] == answer.headers["smcp-request-id"]
                assert str(answer.status_code) in document["paths"][one.path][one.method.lower()]["responses"]
