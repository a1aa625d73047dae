"""The OpenAPI 3.1 document of the authorization server's endpoints for programs: what `web.oauth` serves, described.

Written by hand, since the words are those of the RFCs. Tests send what it allows, and more, and compare.
"""

from typing import Any, Final

from smcp.identity.oauth import clients

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer", "minimum": 0}
_ABOUT: Final = """The authorization server of SMCP: OAuth 2.1 for programs, one issuer for each tenant.

Parameters are form-urlencoded and in the body. A client proves who it is as it registered to: with its id alone, a
secret (`client_secret_basic`, `client_secret_post`) or a signature (`private_key_jwt`). Errors are those of RFC 6749,
5.2. What a person's browser opens (`authorize`, `/account`) is not described here."""


def document(version: str) -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "SMCP authorization server",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/oauth/{tenant}/token": _post("token", "Get tokens (RFC 6749, 3.2)", _TOKEN, "Tokens", ("400", "401")),
            "/oauth/{tenant}/device_authorization": _post(
                "device", "Begin the device flow (RFC 8628, 3.1)", _DEVICE, "Device", ("400", "401")
            ),
            "/oauth/{tenant}/introspect": _post(
                "introspect", "Look at a token (RFC 7662)", _ABOUT_TOKEN, "Introspection", ("400", "401")
            ),
            "/oauth/{tenant}/revoke": _post(
                "revoke", "Give a token back (RFC 7009)", _ABOUT_TOKEN, "Nothing", ("400", "401")
            ),
            "/oauth/{tenant}/jwks": {
                "parameters": [_TENANT],
                "get": {
                    "operationId": "oauth.keys",
                    "summary": "The keys that access tokens are signed with (RFC 7517)",
                    "security": [],
                    "responses": {"200": _answer("Keys"), **_errors(("403", "404", "429", "500", "503"))},
                },
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "responses": {"Error": _answer("Error")},
            "securitySchemes": {
                "client": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "Id and secret of a client that registered for client_secret_basic.",
                }
            },
        },
    }


_TENANT: Final[dict[str, Any]] = {
    "name": "tenant",
    "in": "path",
    "required": True,
    "description": "A tenant's id.",
    "schema": _TEXT,
}
_CLIENT: Final[dict[str, Any]] = {
    "client_id": _TEXT,
    "client_secret": _TEXT,
    "client_assertion_type": {"const": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
    "client_assertion": _TEXT,
}
_TOKEN: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["grant_type"],
    "properties": {
        "grant_type": {
            "enum": [
                clients.AUTHORIZATION_CODE,
                clients.REFRESH_TOKEN,
                clients.CLIENT_CREDENTIALS,
                clients.DEVICE_CODE,
            ]
        },
        "code": _TEXT,
        "code_verifier": {"type": "string", "pattern": "^[A-Za-z0-9._~-]{43,128}$"},
        "redirect_uri": _TEXT,
        "refresh_token": _TEXT,
        "device_code": _TEXT,
        "scope": _TEXT,
        "resource": _TEXT,
        **_CLIENT,
    },
}
_DEVICE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"scope": _TEXT, "resource": _TEXT, **_CLIENT},
}
_ABOUT_TOKEN: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["token"],
    "properties": {"token": _TEXT, "token_type_hint": _TEXT, **_CLIENT},
}
_SCHEMAS: Final[dict[str, Any]] = {
    "Tokens": {
        "type": "object",
        "required": ["access_token", "token_type", "expires_in", "scope"],
        "properties": {
            "access_token": _TEXT,
            "token_type": {"enum": ["Bearer", "DPoP"]},
            "expires_in": _NUMBER,
            "refresh_token": _TEXT,
            "scope": _TEXT,
        },
    },
    "Device": {
        "type": "object",
        "required": ["device_code", "user_code", "verification_uri", "expires_in"],
        "properties": {
            "device_code": _TEXT,
            "user_code": _TEXT,
            "verification_uri": _TEXT,
            "verification_uri_complete": _TEXT,
            "expires_in": _NUMBER,
            "interval": _NUMBER,
        },
    },
    "Introspection": {
        "type": "object",
        "required": ["active"],
        "properties": {
            "active": {"type": "boolean"},
            **dict.fromkeys(("scope", "client_id", "token_type", "sub", "aud", "iss", "jti"), _TEXT),
            "exp": _NUMBER,
            "iat": _NUMBER,
            "cnf": {"type": "object", "required": ["jkt"], "properties": {"jkt": _TEXT}},
        },
    },
    "Nothing": {"type": "object", "maxProperties": 0},
    "Keys": {
        "type": "object",
        "required": ["keys"],
        "properties": {
            "keys": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["kty", "crv", "x", "y", "kid", "use", "alg"],
                    "properties": {
                        "kty": {"const": "EC"},
                        "crv": {"const": "P-256"},
                        "x": _TEXT,
                        "y": _TEXT,
                        "kid": _TEXT,
                        "use": {"const": "sig"},
                        "alg": {"const": "ES256"},
                    },
                    "additionalProperties": False,
                },
            }
        },
    },
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": _TEXT, "error_description": _TEXT},
    },
}


def _post(name: str, summary: str, body: dict[str, Any], answer: str, refused: tuple[str, ...]) -> dict[str, Any]:
    return {
        "parameters": [_TENANT],
        "post": {
            "operationId": f"oauth.{name}",
            "summary": summary,
            "security": [{}, {"client": []}],
            "requestBody": {
                "required": True,
                "content": {"application/x-www-form-urlencoded": {"schema": body}},
            },
            "responses": {
                "200": _answer(answer),
                **_errors((*refused, "403", "404", "408", "413", "415", "429", "500", "503")),
            },
        },
    }


def _answer(name: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"description": name, "content": {"application/json": {"schema": schema}}}


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {status: {"$ref": "#/components/responses/Error"} for status in (*statuses, "405")}
