"""Access tokens: signed by the tenant's own ring, and good as long as what stands behind them is (RFC 9068, 4).

A token is read strictly (RFC 8725): ES256 and `at+jwt` and nothing else, a key of the ring of the tenant that its
issuer names, an issuer, audience and lifetime that this platform writes. Which tenant it is of is taken from the
payload only to know whose ring to ask, and counts once that ring's key has verified it. The address that it is shown at
plays no part.

Signature and claims are checked once for a token. Then it is remembered as an API key is (`authn.api_key`), together
with the revisions of what it stands on: its grant, its person, its client, its roles. While nothing in the store has
changed, it is asked for nothing; when something has, these are compared from memory; when one of them differs, or the
store can't vouch for them, it is looked up anew, or there is no answer but 503.
"""

import collections
import contextlib
import functools
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from smcp.access import policy, scopes
from smcp.identity import roles, signing
from smcp.identity.authn import base
from smcp.identity.oauth import dpop, grants, issue, resources, standing
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import tenant as stores

_WARM_TOKENS: Final = 20_000
_SKEW_S: Final = 60


class Seen(NamedTuple):
    """A token that is good, and what it stands on."""

    claims: issue.Claims
    grant: grants.Grant
    principal: policy.Principal
    revisions: tuple[int, int, int, int]
    """Of the grant, the person (0 for a client that acts for itself), the client and the tenant's roles."""


class _Warm:
    """A verified token."""

    __slots__ = ("digest", "expires", "jkt", "kid", "place", "principal", "revisions", "seen", "token_client", "user")

    def __init__(self, found: Seen, place: tuple[str, str], digest: bytes, kid: str) -> None:
        self.digest = digest
        self.kid = kid
        self.expires = found.claims.exp
        self.jkt = "" if found.claims.cnf is None else found.claims.cnf.jkt
        self.place = place
        self.principal = found.principal
        self.revisions = found.revisions
        self.user = found.grant.subject if found.grant.kind == grants.USER else ""
        self.token_client = found.grant.client
        self.seen = -1
        """`Store.changes` when all of it was last found to be unchanged, and its tenant to be served."""


class Known(NamedTuple):
    """What stands behind tokens."""

    grants: grants.Grants
    people: standing.Source
    applications: standing.Source
    roles: roles.Roles
    resources: resources.Resources
    signing: signing.Signing
    proofs: dpop.Proofs


class AccessTokens(base.Method):
    """Checks access tokens of any tenant."""

    def __init__(
        self,
        store: stores.Store,
        known: Known,
        tenant_active: Callable[[ids.TenantId], Awaitable[None]],
        tenant_served: Callable[[ids.TenantId], bool],
        time: clock.Clock,
    ) -> None:
        """`tenant_active` and `tenant_served` as `ApiKeys` has them."""
        self._store = store
        self._known = known
        self._tenant_active = tenant_active
        self._tenant_served = tenant_served
        self._clock = time
        self._process_key = secrets.token_bytes(32)
        self._warm: collections.OrderedDict[bytes, _Warm] = collections.OrderedDict()

    def recognises(self, credential: str) -> bool:
        """Whatever looks like a JWT is ours to refuse: three parts, the first of which is an object."""
        return credential.startswith("ey") and credential.count(".") == 2

    def recall(self, credential: str) -> base.Recall | None:
        """Nothing for a token that is bound to a key: each request shows a proof of its own."""
        if len(credential) > signing.LONGEST or not credential.isascii():
            return None
        warm = self._remembered(self._fingerprint(credential))
        return None if warm is None or warm.jkt else functools.partial(self._still, warm)

    def _still(self, warm: _Warm) -> policy.Principal | None:
        if warm.seen != self._store.changes and not self._stands(warm):
            return None
        if self._clock.now() >= warm.expires or not self._store.fresh():
            return None
        return warm.principal

    def _stands(self, warm: _Warm) -> bool:
        """Is everything that it stands on what it was? Looked up, from memory, only after something has changed."""
        changes, known, principal = self._store.changes, self._known, warm.principal
        tenant, (grant, person, application, book) = principal.tenant, warm.revisions
        if (
            known.grants.peek(tenant, warm.place) != grant
            or standing.NEVER in (person, application)
            or (warm.user and known.people.peek(tenant, warm.user) != person)
            or known.applications.peek(tenant, warm.token_client) != application
            or not known.roles.unchanged(tenant, principal.roles, book)
            or not known.signing.serves(tenant, warm.kid)
            or not self._tenant_served(tenant)
        ):
            return False
        warm.seen = changes
        return True

    async def authenticate(self, credential: str, proof: base.Proof | None = None) -> policy.Principal:
        """Who this is: see `base.Method`. From memory when the token was verified before and all stands as it did."""
        if not self._store.fresh():
            await self._store.proven()
        if len(credential) > signing.LONGEST or not credential.isascii():
            raise base.refused(base.Reason.MALFORMED)
        digest = self._fingerprint(credential)
        warm = self._remembered(digest)
        if warm is None or (warm.seen != self._store.changes and not self._stands(warm)):
            self._warm.pop(digest[:16], None)
            found = await self._verify(credential)
            warm = self._warm[digest[:16]] = _Warm(
                found, self._known.grants.place(found.grant), digest, signing.key_of(credential)
            )
            if len(self._warm) > _WARM_TOKENS:
                self._warm.popitem(last=False)
        if self._clock.now() >= warm.expires:
            raise base.refused(base.Reason.EXPIRED)
        self._prove(warm, credential, proof)
        try:
            await self._tenant_active(warm.principal.tenant)
        except errors.NotFound:
            raise base.refused(base.Reason.UNKNOWN) from None
        return warm.principal

    async def examine(self, credential: str) -> Seen | None:
        """What a token is, without a proof of its key: for introspection and revocation. None for what is not good.

        Raises `errors.Unavailable`, `errors.TenantSuspended`.
        """
        if not self._store.fresh():
            await self._store.proven()
        try:
            found = await self._verify(credential)
        except errors.Unauthenticated:
            return None
        return found if self._clock.now() < found.claims.exp else None

    def _prove(self, warm: _Warm, credential: str, proof: base.Proof | None) -> None:
        """A token that is bound to a key works with a proof of it, and never without; no other takes one (RFC 9449,
        7)."""
        if not warm.jkt and proof is None:
            return
        if not warm.jkt or proof is None:
            raise base.refused(base.Reason.PROOF)
        if proof is base.SHOWN:
            return
        shown = dpop.Shown(proof.text, proof.method, proof.authority, proof.path)
        try:
            thumbprint = self._known.proofs.check(warm.principal.tenant, warm.principal.id, shown, credential)
        except dpop.BadProof as error:
            raise base.refused(base.Reason.PROOF) from error
        if not crypto.equal(thumbprint, warm.jkt):
            raise base.refused(base.Reason.PROOF)

    # --- the slow way ---

    async def _verify(self, credential: str) -> Seen:
        claims = signing.read_part(credential, 1, issue.Claims)
        tenant = None if claims is None else self._tenant(claims.iss)
        if claims is None or tenant is None:
            raise base.refused(base.Reason.MALFORMED)
        with contextlib.suppress(errors.TenantSuspended):  # told only to who has proved to hold a token
            try:
                await self._tenant_active(tenant)
            except errors.NotFound:
                raise base.refused(base.Reason.UNKNOWN) from None
        if await self._known.signing.verify(tenant, issue.TYPE, credential) is None:
            raise base.refused(base.Reason.UNKNOWN)
        now = self._clock.now()
        if now >= claims.exp:
            raise base.refused(base.Reason.EXPIRED)
        server = self._known.resources.named(tenant, claims.aud)
        if server is None or self._known.resources.url(tenant, server) != claims.aud or claims.iat > now + _SKEW_S:
            raise base.refused(base.Reason.UNKNOWN)
        return await self._standing(tenant, server, claims)

    async def _standing(self, tenant: ids.TenantId, server: str, claims: issue.Claims) -> Seen:
        """Everything that the token stands on, as of now."""
        known = self._known
        kept = await known.grants.get(tenant, claims.sub, claims.smcp_grant)
        if kept is None:
            raise base.refused(base.Reason.REVOKED)
        await self._tenant_active(tenant)  # told to who holds a token that would be good
        application = await known.applications.get(tenant, claims.client_id)
        if application is None:
            raise base.refused(base.Reason.REVOKED)
        grant = kept.value
        held = frozenset(claims.scope.split())
        if (grant.client, grant.server, grant.client_epoch) != (
            claims.client_id,
            server,
            application.epoch,
        ) or not held <= scopes.whole(grant.scopes):
            raise base.refused(base.Reason.REVOKED)
        holder = application
        if grant.kind == grants.USER:
            person = await known.people.get(tenant, grant.subject)
            if person is None or person.epoch != grant.user_epoch:
                raise base.refused(base.Reason.REVOKED)
            holder = person
        given = await known.roles.rules(tenant, holder.roles)
        principal = policy.Principal(
            tenant=tenant,
            id=grant.subject,
            kind=grant.kind,
            roles=holder.roles,
            label=holder.name,
            client=grant.client,
            audience=server,
            scopes=held,
            rules=given.rules,
        )
        return Seen(claims, grant, principal, (kept.revision, holder.revision, application.revision, given.revision))

    def _tenant(self, issuer: str) -> ids.TenantId | None:
        """The tenant whose issuer this is, character for character."""
        try:
            tenant = ids.any_tenant(issuer.rpartition("/")[2])
        except errors.BadName:
            return None
        return tenant if self._known.resources.issuer(tenant) == issuer else None

    def _fingerprint(self, credential: str) -> bytes:
        return hashlib.blake2b(credential.encode(), key=self._process_key, digest_size=32).digest()

    def _remembered(self, digest: bytes) -> _Warm | None:
        warm = self._warm.get(digest[:16])
        return warm if warm is not None and crypto.equal(warm.digest, digest) else None
