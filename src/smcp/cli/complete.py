"""Completion of names. It must never be felt: one second for an answer, and silence about anything that fails."""

import os
from typing import TYPE_CHECKING, Final

import click

from smcp.cli import failures, profiles

if TYPE_CHECKING:
    from smcp.cli import client

_PATIENCE_S: Final = 1.0


def profile_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of profiles."""
    try:
        known = profiles.Profiles(profiles.directory(os.environ)).load()
    except failures.Failure:
        return []
    return _starting(sorted(known), incomplete)


def tenants(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Tenants, as far as the key in use may see them."""
    return _starting(_tenants(_named(ctx)), incomplete)


def targets(ctx: click.Context, incomplete: str) -> list[str]:
    """TENANT/SERVER; before the slash, tenants with a slash behind."""
    tenant, slash, _ = incomplete.partition("/")
    if not slash:
        return _starting([f"{name}/" for name in _tenants(_named(ctx))], incomplete)
    return _starting([f"{tenant}/{name}" for name in _names(tenant, _named(ctx))], incomplete)


def secrets(ctx: click.Context, incomplete: str) -> list[str]:
    """Names of the secrets of the server that was named before."""
    tenant, slash, server = str(ctx.params.get("target") or "").partition("/")
    return _starting(_secrets(tenant, server, _named(ctx)), incomplete) if slash else []


def namespaces(ctx: click.Context, incomplete: str) -> list[str]:
    """TENANT/NAMESPACE; before the slash, tenants with a slash behind."""
    tenant, slash, _ = incomplete.partition("/")
    if not slash:
        return _starting([f"{name}/" for name in _tenants(_named(ctx))], incomplete)
    return _starting([f"{tenant}/{name}" for name in _kept(tenant, ("kv",), _named(ctx))], incomplete)


def kv_keys(ctx: click.Context, incomplete: str) -> list[str]:
    """Keys of the namespace that was named before."""
    tenant, slash, space = str(ctx.params.get("space") or "").partition("/")
    return _starting(_kept(tenant, ("kv", space), _named(ctx), prefix=incomplete), incomplete) if slash else []


def buckets(ctx: click.Context, incomplete: str) -> list[str]:
    """TENANT/BUCKET; before the slash, tenants with a slash behind."""
    tenant, slash, _ = incomplete.partition("/")
    if not slash:
        return _starting([f"{name}/" for name in _tenants(_named(ctx))], incomplete)
    return _starting([f"{tenant}/{name}" for name in _kept(tenant, ("buckets",), _named(ctx))], incomplete)


def object_keys(ctx: click.Context, incomplete: str) -> list[str]:
    """Keys of the bucket that was named before."""
    tenant, slash, bucket = str(ctx.params.get("bucket") or "").partition("/")
    if not slash:
        return []
    return _starting(_kept(tenant, ("buckets", bucket), _named(ctx), prefix=incomplete), incomplete)


def _kept(tenant: str, more: tuple[str, ...], profile: str | None, **query: object) -> list[str]:
    from smcp.cli import client

    try:
        with _client(tenant, profile) as api:
            found = api.items(client.path("tenants", tenant, *more), limit=100, **query)
            return [str(item.get("name") or item["key"]) for item in found]
    except (failures.Failure, KeyError):
        return []


def _tenants(profile: str | None) -> list[str]:
    from smcp.cli import client

    try:
        with _client(None, profile) as api:
            return [str(item["id"]) for item in api.items(client.path("tenants"), limit=100)]
    except (failures.Failure, KeyError):
        return _tenants_of_profiles()


def _tenants_of_profiles() -> list[str]:
    try:
        known = profiles.Profiles(profiles.directory(os.environ)).load()
    except failures.Failure:
        return []
    return sorted({profile.tenant for profile in known.values()} - {"platform", ""})


def _names(tenant: str, profile: str | None) -> list[str]:
    from smcp.cli import client

    try:
        with _client(tenant, profile) as api:
            return [str(item["name"]) for item in api.items(client.path("tenants", tenant, "servers"), limit=100)]
    except (failures.Failure, KeyError):
        return []


def _secrets(tenant: str, server: str, profile: str | None) -> list[str]:
    from smcp.cli import client

    try:
        with _client(tenant, profile) as api:
            where = client.path("tenants", tenant, "servers", server, "secrets")
            return [str(item["name"]) for item in api.items(where, limit=100)]
    except (failures.Failure, KeyError):
        return []


def _client(tenant: str | None, profile: str | None) -> "client.Client":
    from smcp.cli import client

    known = profiles.Profiles(profiles.directory(os.environ))
    chosen = profiles.choose(known, os.environ, named=profile, tenant=tenant)
    return client.Client(chosen, known=known, timeout_s=_PATIENCE_S, ca_file=os.environ.get("SMCP_CA_FILE", ""))


def _named(ctx: click.Context) -> str | None:
    value: object = ctx.params.get("profile")
    return value if isinstance(value, str) else None


def _starting(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
