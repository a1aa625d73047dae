"""env.KV in a real workerd: the platform's door and namespaces behind the API that the code knows."""

import asyncio
import contextlib
import hashlib
import os
import pathlib
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import pytest

from smcp.kernel import ids
from smcp.runtime.bindings import door, kv
from smcp.stores import heavy, namespaces
from support import doorworker, storage

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

ACME: Final = ids.tenant("acme")
OTHER: Final = ids.tenant("other")
_SCRIPT: Final = (pathlib.Path(__file__).parents[2] / "fixtures/namespaces.js").read_text()


class _Tenant:
    """A tenant's Worker, with the namespaces `notes` and `other` bound as `KV` and `MORE`."""

    def __init__(self, worker: doorworker.Worker, way: door.Door, told: list[str]) -> None:
        self._worker = worker
        self.door = way
        self.told = told

    async def calls(self, *calls: Sequence[Any]) -> list[Any]:
        """What the code got: a value, or the message of an error behind `!`."""
        answers = await self._worker.ask({"calls": calls})
        return [f"!{one['error']}" if "error" in one else one["value"] for one in answers]

    async def kv(self, *call: Any) -> Any:
        """What the code got from one call of `env.KV`."""
        return (await self.calls(["KV", *call]))[0]


@contextlib.asynccontextmanager
async def _running(
    every: namespaces.Namespaces, tenant: ids.TenantId, directory: pathlib.Path
) -> AsyncGenerator[_Tenant]:
    told: list[str] = []
    places = heavy.Heavy()
    path = str(directory / f"{tenant}-door")
    way = await door.Door.open(path, os.getuid(), told.append)
    try:
        bound = [
            doorworker.Bound(name, "kvNamespace", way.admit(kv.Binding(every, tenant, namespace, places).answer))
            for name, namespace in (("KV", "notes"), ("MORE", "other"))
        ]
        async with doorworker.running(_SCRIPT, path, bound) as worker:
            yield _Tenant(worker, way, told)
    finally:
        await way.close()


@pytest.fixture
async def every(tmp_path: pathlib.Path) -> AsyncGenerator[namespaces.Namespaces]:
    async with storage.opened(tmp_path / "store") as store:
        await store.provision(ACME)
        await store.provision(OTHER)
        yield namespaces.Namespaces(store)


@pytest.fixture
async def acme(every: namespaces.Namespaces, tmp_path: pathlib.Path) -> AsyncGenerator[_Tenant]:
    async with _running(every, ACME, tmp_path) as one:
        yield one
        assert one.told == []


def _shown(data: bytes) -> dict[str, Any]:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _names(page: Any) -> list[str]:
    return [one["name"] for one in page["keys"]]


@pytest.mark.requirement("workers:kv:api")
async def test_values_come_back_in_every_type(acme: _Tenant) -> None:
    text = '{"a":[1,"é"]}'
    assert await acme.kv("get", "k") is None
    assert await acme.kv("put", "k", text) == "undefined"
    assert await acme.kv("get", "k") == text
    assert await acme.kv("get", "k", "text") == text
    assert await acme.kv("get", "k", "json") == {"a": [1, "é"]}
    assert await acme.kv("get", "k", {"type": "json", "cacheTtl": 60}) == {"a": [1, "é"]}
    assert await acme.kv("get", "k", "arrayBuffer") == _shown(text.encode())
    assert await acme.kv("get", "k", "stream") == _shown(text.encode())
    assert await acme.calls(["MORE", "get", "k"]) == [None]
    assert await acme.kv("delete", "k") == "undefined"
    assert await acme.kv("delete", "k") == "undefined"
    assert await acme.kv("get", "k") is None


@pytest.mark.requirement("workers:kv:api")
async def test_metadata_and_ends_come_back(acme: _Tenant, every: namespaces.Namespaces) -> None:
    now = int(every.now())
    metadata = {"é": "ü\n\u2028", "n": [1, None]}
    await acme.kv("put", "a", "1", {"metadata": metadata, "expirationTtl": 3600})
    await acme.kv("put", "b", "2", {"expiration": now + 7200})
    nothing = {"value": None, "metadata": None, "cacheStatus": None}
    assert await acme.kv("getWithMetadata", "a") == nothing | {"value": "1", "metadata": metadata}
    assert await acme.kv("getWithMetadata", "b", "stream") == nothing | {"value": _shown(b"2")}
    assert await acme.kv("getWithMetadata", "zz") == nothing
    listed = await acme.kv("list")
    first = listed["keys"][0].pop("expiration")
    assert now + 3600 <= first <= every.now() + 3600
    assert listed == {
        "keys": [{"name": "a", "metadata": metadata}, {"name": "b", "expiration": now + 7200}],
        "list_complete": True,
        "cacheStatus": None,
    }


@pytest.mark.requirement("workers:kv:api")
async def test_several_keys_are_got_at_once(acme: _Tenant) -> None:
    await acme.calls(["KV", "put", "a", "text"], ["KV", "put", "j", '{"x":1}', {"metadata": [1]}])
    assert await acme.kv("get", ["a", "j", "zz"]) == {"a": "text", "j": '{"x":1}', "zz": None}
    assert await acme.kv("get", ["j", "zz"], "json") == {"j": {"x": 1}, "zz": None}
    assert await acme.kv("getWithMetadata", ["a", "j", "zz"]) == {
        "a": {"value": "text", "metadata": None},
        "j": {"value": '{"x":1}', "metadata": [1]},
        "zz": None,
    }
    assert (await acme.kv("get", ["a", "j"], "json")).startswith("!KV GET_BULK failed: 400 ")
    assert (await acme.kv("get", [f"k{n}" for n in range(101)])).startswith("!KV GET_BULK failed: 400 ")
    for name in ("big1", "big2"):
        await acme.kv("put", name, {"bytes": 14_000_000})
    assert (await acme.kv("get", ["big1", "big2"])).startswith("!KV GET_BULK failed: 413 ")


@pytest.mark.requirement("workers:kv:api")
async def test_keys_are_any_text_and_lists_go_on(acme: _Tenant) -> None:
    names = ["a/b", "a b", "a+b", "a?b=c&d", "a#b", "a%2Fb", "é\U0010ffff", "bulk/get", "k" * 512]
    await acme.calls(*(["KV", "put", name, name] for name in names))
    assert await acme.calls(*(["KV", "get", name] for name in names)) == names
    wanted, got = sorted(names, key=str.encode), list[str]()
    cursor: str | None = None
    while True:
        page = await acme.kv("list", {"limit": 2, "cursor": cursor} if cursor else {"limit": 2})
        got += _names(page)
        if page["list_complete"]:
            break
        cursor = page["cursor"]
    assert got == wanted
    for prefix in ("a", "a+", "é", "a%", "none"):
        page = await acme.kv("list", {"prefix": prefix})
        assert _names(page) == [name for name in wanted if name.startswith(prefix)]


@pytest.mark.requirement("workers:kv:limits")
async def test_what_is_refused_is_told_as_cloudflare_does(acme: _Tenant) -> None:
    for call, message in (
        (("put", "k", "x", {"expirationTtl": 59}), "!KV PUT failed: 400 "),
        (("put", "k", "x", {"expiration": 10}), "!KV PUT failed: 400 "),
        (("put", "k", "x", {"metadata": "m" * 1023}), "!KV PUT failed: 413 "),
        (("put", "k", {"bytes": 26_214_401}), "!KV PUT failed: 413 "),
        (("put", "k" * 513, "x"), "!KV PUT failed: 414 "),
        (("get", "k", {"cacheTtl": 1}), "!KV GET failed: 400 "),
        (("list", {"limit": 1001}), "!KV GET failed: 400 "),
        (("list", {"cursor": "forged"}), "!KV GET failed: 400 "),
    ):
        assert (await acme.kv(*call)).startswith(message), call
    assert await acme.kv("get", "k") is None


@pytest.mark.requirement("workers:kv:values")
async def test_the_largest_value_goes_through_as_a_stream(acme: _Tenant) -> None:
    for size in (0, 1024, 1025, 200_000, 26_214_400):
        assert await acme.kv("put", "k", {"bytes": size}) == "undefined"
        shown = await acme.kv("get", "k", "stream")
        assert shown["size"] == size
        assert await acme.kv("get", "k", "arrayBuffer") == shown


@pytest.mark.requirement("workers:kv:unavailable")
async def test_without_the_store_the_code_sees_an_error_and_no_absence(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path / "store") as store:
        await store.provision(ACME)
        every = namespaces.Namespaces(store)
        async with _running(every, ACME, tmp_path) as acme:
            await acme.kv("put", "k", "v")
            await store.close()
            answers = await acme.calls(["KV", "get", "k"], ["KV", "put", "k", "w"], ["KV", "list"])
            assert [one[: one.index(" failed: 503")] for one in answers] == ["!KV GET", "!KV PUT", "!KV GET"]


@pytest.mark.requirement("workers:kv:unavailable")
async def test_while_a_tenant_is_erased_no_key_reads_as_absent(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path / "store") as store:
        await store.provision(ACME)
        async with _running(namespaces.Namespaces(store), ACME, tmp_path) as acme:
            await acme.kv("put", "k", "v")
            await store.erase(ACME)
            assert (await acme.kv("get", "k")).startswith("!KV GET failed: 503")


@pytest.mark.requirement("workers:door:capability")
async def test_with_another_tenants_capability_or_none_the_code_gets_nothing(
    every: namespaces.Namespaces, tmp_path: pathlib.Path
) -> None:
    async with _running(every, ACME, tmp_path) as acme, _running(every, OTHER, tmp_path) as other:
        await acme.kv("put", "k", "secret")
        stolen = acme.door.admit(kv.Binding(every, ACME, "notes", heavy.Heavy()).answer)
        for capability in (stolen, "forged"):
            bound = [doorworker.Bound("KV", "kvNamespace", capability)]
            async with doorworker.running(_SCRIPT, str(tmp_path / "other-door"), bound) as thief:
                answers = await thief.ask({"calls": [["KV", "get", "k"], ["KV", "list"], ["KV", "put", "k", "x"]]})
                assert ["403" in one["error"] for one in answers] == [True] * 3
        assert await other.kv("get", "k") is None
        assert await acme.kv("get", "k") == "secret"
        assert other.told == ["bindings: refused a request without the key of a binding"]


@pytest.mark.requirement("workers:kv:tenants")
async def test_ten_thousand_calls_of_two_tenants_code_never_cross(
    every: namespaces.Namespaces, tmp_path: pathlib.Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    async with _running(every, ACME, tmp_path) as acme, _running(every, OTHER, tmp_path) as other:
        models: dict[ids.TenantId, dict[tuple[str, str], str]] = {ACME: {}, OTHER: {}}

        async def lives(tenant: ids.TenantId, worker: _Tenant) -> None:
            chance, model = random.Random(f"{seed}{tenant}"), models[tenant]
            for _ in range(50):
                calls: list[list[Any]] = []
                wanted: list[Any] = []
                for _ in range(100):
                    where = (chance.choice(["KV", "MORE"]), chance.choice(["a", "b/c", "é", "d"]))
                    kind = chance.choice(["get", "put", "delete", "list", "get"])
                    value = f"{tenant} {chance.random()} " * chance.choice([1, 1, 1, 60])
                    calls.append(
                        [where[0], kind, *([where[1]] if kind != "list" else []), *([value] * (kind == "put"))]
                    )
                    if kind == "put":
                        model[where] = value
                    elif kind == "delete":
                        model.pop(where, None)
                    names = sorted((key for space, key in model if space == where[0]), key=str.encode)
                    wanted.append({"get": model.get(where), "list": names}.get(kind, "undefined"))
                answers: list[Any] = await worker.calls(*calls)
                got = [one if one is None or isinstance(one, str) else _names(one) for one in answers]
                assert got == wanted

        await asyncio.gather(lives(ACME, acme), lives(OTHER, other))
