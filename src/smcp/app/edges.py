"""What is served beside the admin API: documentation, the authorization server, the pages for people."""

from starlette import routing

from smcp.app import authorization, foundation, tokens
from smcp.web import docs, oauth, register, services, wellknown
from smcp.web.pages import routes as people


def routes(
    base: foundation.Foundation,
    common: foundation.Common,
    authorizing: authorization.Authorization,
    issuing: tokens.Tokens,
    public: str,
) -> list[routing.BaseRoute]:
    """All of their routes, for `control.app.build`."""
    registering = register.Parts(
        clients=authorizing.clients,
        resources=authorizing.resources,
        limiter=common.limiter,
        trail=common.trail,
        clock=base.clock,
    )
    shown = services.Services(
        version=base.version,
        public_url=public,
        clock=base.clock,
        key=common.store.ring.data_key,
        tenants=common.tenants,
        limiter=common.limiter,
        trail=common.trail,
        metrics=base.metrics,
        logger=base.log,
        accounts=common.people.accounts,
        sessions=common.people.sessions,
        authorizing=authorizing.requests,
        clients=authorizing.clients,
        grants=issuing.grants,
        codes=issuing.codes,
        devices=issuing.devices,
        resources=authorizing.resources,
    )
    return [
        *docs.pages(),
        *wellknown.routes(authorizing.resources),
        *register.routes(registering),
        *oauth.routes(
            tokens.edge(base.clock, base.version, issuing, authorizing, common.tenants, common.limiter, common.trail)
        ),
        *people.pages(shown),
    ]
