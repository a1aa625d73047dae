"""Secrets in their store: versions, limits, and what is left of a value where it must not be."""

import asyncio
import pathlib
from collections.abc import AsyncGenerator

import msgspec
import pytest

from smcp.deploy import secrets
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from support import storage

_ACME, _GLOBEX = ids.TenantId("acme"), ids.TenantId("globex")
_TIME, _OTHER = ids.ServerName("time"), ids.ServerName("time-two")
_CANARY = b"canary-Zk3vUq0-value"


def _holding(directory: pathlib.Path, data: bytes) -> list[pathlib.Path]:
    return [path for path in directory.rglob("*") if path.is_file() and data in path.read_bytes()]


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncGenerator[stores.Store]:
    async with storage.opened(tmp_path) as opened:
        for tenant in (_ACME, _GLOBEX):
            await opened.provision(tenant)
        yield opened


@pytest.fixture
def kept(store: stores.Store) -> secrets.Secrets:
    return secrets.Secrets(store, clock.SystemClock())


@pytest.mark.requirement("deploy:secrets:versions")
async def test_each_set_is_a_version_and_a_copy_gets_the_newest(kept: secrets.Secrets) -> None:
    for number in range(1, 4):
        made = await kept.set(_ACME, _TIME, "API_KEY", b"value %d" % number, by=f"key-{number}")
        assert (made.name, made.version, made.kind, made.by) == ("API_KEY", number, "env", f"key-{number}")
    [value] = await kept.values(_ACME, _TIME)
    assert (value.name, value.value, value.kind) == ("API_KEY", b"value 3", "env")
    [listed] = await kept.list(_ACME, _TIME)
    assert (listed.version, listed.by) == (3, "key-3")


@pytest.mark.requirement("deploy:secrets:versions")
async def test_five_versions_are_kept_and_the_value_of_the_sixth_oldest_is_gone(
    store: stores.Store, kept: secrets.Secrets
) -> None:
    for number in range(1, 14):
        await kept.set(_ACME, _TIME, "API_KEY", b"value %d" % number, by="key-1")
    stored = await store.tenant(_ACME).kv.scan(("secret",))
    assert len(stored) == secrets.KEPT
    assert [entry.key[-1] for entry in stored] == [f"{number:010d}" for number in range(9, 14)]
    assert not any(b"value 8" in entry.value for entry in stored)


@pytest.mark.requirement("deploy:secrets:versions")
async def test_two_who_set_at_once_make_two_versions(kept: secrets.Secrets) -> None:
    made = await asyncio.gather(
        *(kept.set(_ACME, _TIME, "API_KEY", b"value %d" % number, by="key-1") for number in range(4))
    )
    assert sorted(one.version for one in made) == [1, 2, 3, 4]


@pytest.mark.requirement("deploy:secrets:versions")
async def test_a_new_value_keeps_its_kind_unless_another_is_asked_for(kept: secrets.Secrets) -> None:
    await kept.set(_ACME, _TIME, "CERT", b"\xff\0", by="key-1", kind="file")
    assert (await kept.set(_ACME, _TIME, "CERT", b"\xfe\0", by="key-1")).kind == "file"
    assert (await kept.set(_ACME, _TIME, "CERT", b"text", by="key-1", kind="env")).kind == "env"
    with pytest.raises(errors.NotFound):
        await kept.set(_ACME, _TIME, "CERTT", b"text", by="key-1", existing=True)


@pytest.mark.requirement("deploy:secrets:only-its-server")
async def test_no_other_server_and_no_other_tenant_has_it(kept: secrets.Secrets) -> None:
    await kept.set(_ACME, _TIME, "API_KEY", _CANARY, by="key-1")
    for tenant, server in ((_ACME, _OTHER), (_GLOBEX, _TIME), (ids.TenantId("nobody"), _TIME)):
        assert await kept.values(tenant, server) == ()
        assert await kept.list(tenant, server) == []
        with pytest.raises(errors.NotFound):
            await kept.delete(tenant, server, "API_KEY")


@pytest.mark.requirement("deploy:secrets:destroyed")
async def test_deleted_means_every_version_and_a_later_one_begins_again(
    store: stores.Store, kept: secrets.Secrets
) -> None:
    for name in ("API_KEY", "API_KEY", "API_KEY_2"):
        await kept.set(_ACME, _TIME, name, _CANARY, by="key-1")
    assert (await kept.delete(_ACME, _TIME, "API_KEY")).version == 2
    assert [value.name for value in await kept.values(_ACME, _TIME)] == ["API_KEY_2"]
    assert (await kept.set(_ACME, _TIME, "API_KEY", b"anew", by="key-1")).version == 1
    await kept.set(_ACME, _OTHER, "API_KEY", _CANARY, by="key-1")
    await kept.drop(_ACME, _TIME)
    assert [entry.key[1] for entry in await store.tenant(_ACME).kv.scan(("secret",))] == [_OTHER]
    await kept.drop(_ACME, _TIME)


@pytest.mark.requirement("deploy:secrets:destroyed")
async def test_an_erased_tenant_takes_its_secrets_along(store: stores.Store, kept: secrets.Secrets) -> None:
    await kept.set(_ACME, _TIME, "API_KEY", _CANARY, by="key-1")
    await store.erase(_ACME)
    await store.provision(_ACME)
    assert await kept.list(_ACME, _TIME) == []


@pytest.mark.requirement("deploy:secrets:sealed")
async def test_no_byte_of_a_value_is_on_disk(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(_ACME)
        kept = secrets.Secrets(store, clock.SystemClock())
        await kept.set(_ACME, _TIME, "API_KEY", _CANARY, by="key-1")
        await kept.set(_ACME, _TIME, "API_KEY", _CANARY + b"2", by="key-1")
        assert _holding(tmp_path, b"SQLite format 3") != []
        for hidden in (_CANARY, b"API_KEY"):
            assert _holding(tmp_path, hidden) == []
    assert _holding(tmp_path, _CANARY) == []


@pytest.mark.requirement("deploy:secrets:bounds")
@pytest.mark.parametrize(
    "name", ["", "1A", "A-B", "A B", "é", "A" * 129, "A\0", "A\n", "../A", "A=b", "smcp_acme_0123456789abcdef"]
)
async def test_a_name_that_is_none_is_refused_and_not_repeated(kept: secrets.Secrets, name: str) -> None:
    with pytest.raises(errors.BadName) as refused:
        await kept.set(_ACME, _TIME, name, b"value", by="key-1")
    assert len(name) < 3 or name not in str(refused.value)


@pytest.mark.requirement("deploy:secrets:bounds")
@pytest.mark.parametrize(
    ("value", "kind"),
    [(b"", "env"), (b"", "file"), (b"a\0b", "env"), (b"\xff", "env"), (b"x" * 65_537, "env"), (b"x" * 65_537, "file")],
)
async def test_a_value_that_cannot_be_handed_over_is_refused_and_not_repeated(
    kept: secrets.Secrets, value: bytes, kind: secrets.Kind
) -> None:
    with pytest.raises(errors.InvalidParams) as refused:
        await kept.set(_ACME, _TIME, "A", value, by="key-1", kind=kind)
    assert "xxxxxxxx" not in str(refused.value)
    assert await kept.list(_ACME, _TIME) == []


@pytest.mark.requirement("deploy:secrets:bounds")
async def test_a_server_has_so_many_secrets_of_so_many_bytes_and_no_more(kept: secrets.Secrets) -> None:
    await kept.set(_ACME, _TIME, "A", b"x" * secrets.MAX_VALUE, by="key-1")
    await kept.set(_ACME, _TIME, "B", b"x" * secrets.MAX_VALUE, by="key-1")
    await kept.set(_ACME, _TIME, "B", b"y" * secrets.MAX_VALUE, by="key-1")  # in place of the one before
    with pytest.raises(errors.InvalidParams, match="together"):
        await kept.set(_ACME, _TIME, "C", b"x", by="key-1")
    for number in range(secrets.MAX_SECRETS):
        await kept.set(_ACME, _OTHER, f"N{number}", b"x", by="key-1")
    with pytest.raises(errors.InvalidParams, match="at most 32"):
        await kept.set(_ACME, _OTHER, "ONE_MORE", b"x", by="key-1")
    await kept.set(_ACME, _OTHER, "N0", b"y", by="key-1")


@pytest.mark.requirement("deploy:secrets:never-shown")
async def test_what_is_listed_has_no_place_for_a_value_and_no_repr_shows_one(kept: secrets.Secrets) -> None:
    await kept.set(_ACME, _TIME, "API_KEY", _CANARY, by="key-1")
    listed, values = await kept.list(_ACME, _TIME), await kept.values(_ACME, _TIME)
    assert {field.name for field in msgspec.structs.fields(secrets.Secret)} == {
        "name",
        "version",
        "kind",
        "created",
        "by",
    }
    assert "canary" not in repr((listed, values))
