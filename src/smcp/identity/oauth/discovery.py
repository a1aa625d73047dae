"""What clients read before they do anything: RFC 8414, OpenID Connect Discovery and RFC 9728 documents. Pure.

They say what this platform does and nothing else: each endpoint, grant and method named here exists. One issuer per
tenant; the document does not say whether the tenant exists, because anybody may read it.
"""

from typing import Any, Final

from smcp.access import scopes
from smcp.identity.oauth import client_auth, clients, dpop, keysets, resources
from smcp.kernel import ids

_SIGNED_WITH: Final = ("ES256",)


def authorization_server(of: resources.Resources, tenant: ids.TenantId) -> dict[str, Any]:
    """RFC 8414, 2; with RFC 9207, RFC 8628, RFC 9449 and the metadata documents' own members."""
    confidential = [one for one in client_auth.METHODS if one != clients.AuthMethod.NONE]
    return {
        "issuer": of.issuer(tenant),
        "authorization_endpoint": of.endpoint(tenant, "authorize"),
        "token_endpoint": of.endpoint(tenant, "token"),
        "registration_endpoint": of.endpoint(tenant, "register"),
        "revocation_endpoint": of.endpoint(tenant, "revoke"),
        "introspection_endpoint": of.endpoint(tenant, "introspect"),
        "device_authorization_endpoint": of.endpoint(tenant, "device_authorization"),
        "jwks_uri": of.endpoint(tenant, "jwks"),
        "scopes_supported": list(scopes.WORDS),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [
            clients.AUTHORIZATION_CODE,
            clients.REFRESH_TOKEN,
            clients.CLIENT_CREDENTIALS,
            clients.DEVICE_CODE,
        ],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": list(client_auth.METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(keysets.ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": list(client_auth.METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": list(keysets.ALGORITHMS),
        "introspection_endpoint_auth_methods_supported": confidential,
        "introspection_endpoint_auth_signing_alg_values_supported": list(keysets.ALGORITHMS),
        "dpop_signing_alg_values_supported": list(dpop.ALGORITHMS),
        "authorization_response_iss_parameter_supported": True,
        "client_id_metadata_document_supported": True,
        "service_documentation": f"{of.public}/api/docs",
    }


def openid(of: resources.Resources, tenant: ids.TenantId) -> dict[str, Any]:
    """The same for clients that ask for it by OpenID Connect Discovery's name (3), with the members that it requires.

    There are no ID tokens here: no scope `openid`, no claims. What such a token would be signed with is required.
    """
    return authorization_server(of, tenant) | {
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": list(_SIGNED_WITH),
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def protected_resource(
    of: resources.Resources, tenant: ids.TenantId | None, server: str, resource: str
) -> dict[str, Any]:
    """RFC 9728, 2, of a server or the admin API. `resource` is its address as the client wrote it (3.3: a client
    compares it with what it was given, character for character).

    `tenant` is None for the admin API, which all tenants' people use, each with a token of their own tenant: its
    document names no issuer.
    """
    told: dict[str, Any] = {
        "resource": resource,
        "scopes_supported": list(scopes.WORDS if tenant is None else scopes.MCP),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(dpop.ALGORITHMS),
        "resource_documentation": f"{of.public}/api/docs",
    }
    if tenant is None:
        return told | {"resource_name": "SMCP's admin API"}
    return told | {"authorization_servers": [of.issuer(tenant)], "resource_name": f"MCP server {server} of {tenant}"}


def origin(of: resources.Resources, tenant: ids.TenantId, resource: str) -> dict[str, Any]:
    """RFC 9728, 2, of an origin that is one tenant's, for clients that look at its root only (MCP 2025-03-26).

    Asked for a token for it, the issuer means the tenant's only server (`resources.Resources.target`).
    """
    return protected_resource(of, tenant, "", resource) | {"resource_name": f"MCP servers of {tenant}"}
