"""The platform itself: is it alive, is it ready, which version, who am I, its metrics, this API's document."""

from collections.abc import Mapping
from typing import Any, Final

from smcp.access.policy import Action, Role
from smcp.control import views
from smcp.control.endpoint import AnyCredential, Call, Nothing, Open, Raw, endpoint
from smcp.kernel import errors, observe


@endpoint(
    "GET",
    "/healthz",
    action=Open("a supervisor asks it, which has no credential; it tells nothing but that the process answers"),
    answer_example={"status": "ok"},
)
async def healthz(call: Call[Nothing, Nothing]) -> views.Health:
    """Say that the process answers."""
    return views.Health("ok")


@endpoint(
    "GET",
    "/readyz",
    action=Open("a load balancer asks it, which has no credential; it names conditions, not causes"),
    raises=(errors.Unavailable,),
    answer_example={"ready": True, "checks": ["store"]},
)
async def readyz(call: Call[Nothing, Nothing]) -> views.Readiness:
    """Say whether the platform can take traffic.

    503 `unavailable` names the condition that does not hold in `data.failed`; the log tells why.
    """
    failed: list[str] = []
    for condition in call.services.ready:
        try:
            condition.check()
        except errors.SmcpError as error:
            call.services.logger.warning("not ready", condition=condition.name, why=str(error))
            failed.append(condition.name)
    if failed:
        raise errors.Unavailable(data={"failed": failed})
    return views.Readiness(True, [condition.name for condition in call.services.ready])


@endpoint(
    "GET",
    "/version",
    action=Open("clients and support ask it before they log in; releases are public"),
    answer_example={"name": "smcp", "version": "0.1.0"},
)
async def version(call: Call[Nothing, Nothing]) -> views.Version:
    """Say which SMCP this is."""
    return views.Version("smcp", call.services.version)


@endpoint("GET", "/metrics", action=Action.PLATFORM_METRICS)
async def metrics(call: Call[Nothing, Nothing]) -> Raw:
    """Give the metrics in the Prometheus text format.

    For operators. docs/reference/metrics.md lists them.
    """
    return Raw(call.services.metrics.render(), observe.CONTENT_TYPE)


@endpoint(
    "GET",
    "/api/v1/openapi.json",
    action=Open("the document is public: it is part of the source code"),
)
async def openapi(call: Call[Nothing, Nothing]) -> Mapping[str, Any]:
    """Give the OpenAPI 3.1 document of this API."""
    return call.document


@endpoint(
    "GET",
    "/api/v1/whoami",
    action=AnyCredential("it tells a credential's holder what the credential itself says"),
    answer_example={
        "tenant": "acme",
        "id": "key-01kaq3v7q0zj1x5w9n2c8d4f6g",
        "kind": "api_key",
        "roles": ["admin"],
        "label": "laptop",
        "client": "",
        "scopes": None,
        "servers": None,
        "expires": 1807776000.0,
    },
)
async def whoami(call: Call[Nothing, Nothing]) -> views.Principal:
    """Show whom the credential belongs to."""
    caller = call.principal
    return views.Principal(
        caller.tenant,
        caller.id,
        caller.kind,
        [str(role) for role in caller.roles],
        caller.label,
        caller.client,
        None if caller.scopes is None else sorted(caller.scopes),
        None if caller.servers is None else sorted(caller.servers),
        caller.expires,
    )


@endpoint(
    "GET",
    "/api/v1/sandbox",
    action=AnyCredential("whose code runs behind the walls may know which of them stand"),
    answer_example={
        "layers": [{"name": "seccomp", "present": True, "why": "", "fix": ""}],
        "missing": ["uid"],
    },
)
async def sandbox(call: Call[Nothing, Nothing]) -> views.Sandbox:
    """Show which layers of the walls around hosted servers this machine has.

    Why one is missing, and what brings it, is told to operators.
    """
    tells = Role.OPERATOR in call.principal.roles
    layers = call.services.layers
    return views.Sandbox(
        layers=[views.Layer(*(layer if tells else (layer.name, layer.present, "", ""))) for layer in layers],
        missing=[layer.name for layer in layers if not layer.present],
    )


ENDPOINTS: Final = (healthz, readyz, version, metrics, openapi, whoami, sandbox)
