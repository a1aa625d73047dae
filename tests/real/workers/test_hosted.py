"""Projects that are Workers, deployed as their owners do, and called through the endpoint."""

import functools
import json
import pathlib
from collections.abc import Generator

import pytest

from support import handmade, workers
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def site(platform: Platform) -> Generator[workers.Site]:
    """A tenant with Workers."""
    with workers.Site(platform, "isolated") as made:
        yield made


def _call(site: workers.Site, server: str, tool: str, arguments: str) -> str:
    answer = site.platform.smcp("call", f"{site.tenant}/{server}", tool, arguments, key=site.caller)
    text: str = answer["content"][0]["text"]
    return text


def _logged(site: workers.Site, server: str, word: str) -> int:
    """How many lines of a server's log have `word`, once there is one: what code writes comes by another way than its
    answer, and behind it perhaps. The test's own time is the limit."""
    after = 0
    while True:
        # Each question waits for news for a second.
        where = f"/tenants/{site.tenant}/servers/{server}/logs?limit=1000&wait=1&after={after}"
        lines = site.platform.api("GET", where, key=site.admin)["items"]
        found = sum(word in line["text"] for line in lines)
        if found:
            return found
        after = lines[-1]["position"] if lines else after


@pytest.mark.requirement("workers:hosted:calls")
@pytest.mark.parametrize("name", ["plain", "sdk-v1", "sdk-v2", "hono"])
def test_a_project_answers_behind_the_endpoint(site: workers.Site, tmp_path: pathlib.Path, name: workers.Name) -> None:
    site.deploy(workers.project(name, tmp_path))
    assert "Ada" in _call(site, name, "greet", '{"name":"Ada"}')


@pytest.mark.requirement("workers:hosted:durables")
def test_an_unmodified_mcp_agent_answers(site: workers.Site, tmp_path: pathlib.Path) -> None:
    site.deploy(workers.project("agent", tmp_path))
    assert _call(site, "agent", "add", '{"by":3}') == "3"


_KEEPER = """
import { DurableObject } from "cloudflare:workers";
import { serve } from "./mcp.js";
export class Kept extends DurableObject {
  add(note) {
    this.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS notes (text TEXT)");
    this.ctx.storage.sql.exec("INSERT INTO notes VALUES (?)", note);
    return this.ctx.storage.sql.exec("SELECT text FROM notes").toArray().map((row) => row.text).join();
  }
}
export default serve({ add: ({ note }, env) => env.KEPT.get(env.KEPT.idFromName("all")).add(note) });
"""


@pytest.mark.requirement("workers:hosted:durables")
def test_durable_objects_outlive_a_stop_and_another_deployment(site: workers.Site, tmp_path: pathlib.Path) -> None:
    durable = {
        "durable_objects": {"bindings": [{"name": "KEPT", "class_name": "Kept"}]},
        "migrations": [{"tag": "v1", "new_sqlite_classes": ["Kept"]}],
    }
    site.deploy(handmade.project(tmp_path / "keeping", _KEEPER, durable))
    assert _call(site, "keeping", "add", '{"note":"a"}') == "a"
    assert _call(site, "keeping", "add", '{"note":"b"}') == "a,b"
    site.act("keeping", "stop")
    site.act("keeping", "start")
    assert _call(site, "keeping", "add", '{"note":"c"}') == "a,b,c"
    changed = _KEEPER.replace(".join()", '.join("+")')
    site.deploy(handmade.project(tmp_path / "again" / "keeping", changed, durable))
    assert _call(site, "keeping", "add", '{"note":"d"}') == "a+b+c+d"


@pytest.mark.requirement("workers:hosted:bindings")
def test_kv_and_objects_are_there_for_the_code(site: workers.Site, tmp_path: pathlib.Path) -> None:
    source = """
import { serve } from "./mcp.js";
export default serve({
  put: async ({ key, value }, { NOTES, FILES }) => [await NOTES.put(key, value), await FILES.put(key, value)].length,
  get: async ({ key }, env) => [await env.NOTES.get(key), await (await env.FILES.get(key)).text()].join(" "),
});
"""
    bound = {
        "kv_namespaces": [{"binding": "NOTES", "id": "notes"}],
        "r2_buckets": [{"binding": "FILES", "bucket_name": "files"}],
    }
    site.deploy(handmade.project(tmp_path / "noting", source, bound))
    _call(site, "noting", "put", '{"key":"k/ä","value":"v"}')
    site.act("noting", "stop")
    site.act("noting", "start")
    assert _call(site, "noting", "get", '{"key":"k/ä"}') == "v v"


@pytest.mark.requirement("workers:hosted:services")
def test_a_worker_calls_another_of_its_tenant_and_that_one_has_its_own_bindings(
    site: workers.Site, tmp_path: pathlib.Path
) -> None:
    adder = """
import { WorkerEntrypoint } from "cloudflare:workers";
import { serve } from "./mcp.js";
export class Sums extends WorkerEntrypoint {
  add(a, b) { console.log("adding"); return `${a + b} by ${this.env.WHO}`; }
}
export default serve({ who: (_, env) => env.WHO });
"""
    caller = """
import { serve } from "./mcp.js";
export default serve({
  sum: ({ a, b }, env) => env.SUMS.add(a, b),
  ask: async (_, env) => (await env.PLAIN.fetch("http://any/", { method: "DELETE" })).status,
});
"""
    site.deploy(handmade.project(tmp_path / "adder", adder, {"vars": {"WHO": "adder"}}))
    services = [
        {"binding": "SUMS", "service": "adder", "entrypoint": "Sums"},
        {"binding": "PLAIN", "service": "adder"},
    ]
    site.deploy(handmade.project(tmp_path / "caller", caller, {"services": services, "vars": {"WHO": "caller"}}))
    assert _call(site, "caller", "sum", '{"a":2,"b":3}') == "5 by adder"
    assert _call(site, "caller", "ask", "{}") == "405"
    assert _call(site, "adder", "who", "{}") == "adder"
    assert _logged(site, "adder", "adding") == 1


@pytest.mark.requirement("workers:hosted:services-now")
def test_who_binds_a_server_reaches_it_as_it_is_now_and_not_when_it_is_stopped(
    site: workers.Site, tmp_path: pathlib.Path
) -> None:
    """Attack: code whose owner stopped it, or took its secret away, goes on within a neighbour that still runs."""
    bound = """
import { serve } from "./mcp.js";
export default { fetch: (request, env, ctx) =>
  request.method === "PUT" ? new Response(`${env.WHO} ${env.TOKEN}`) : serve({}).fetch(request, env, ctx) };
"""
    binder = """
import { serve } from "./mcp.js";
export default serve({
  ask: async (_, env) => await (await env.BOUND.fetch("http://any/", { method: "PUT" })).text(),
});
"""

    def deploy(folder: str, who: str) -> None:
        made = handmade.project(tmp_path / folder / "bound", bound, {"vars": {"WHO": who}})
        (made / "smcp.toml").write_text('name = "bound"\n[secrets]\nTOKEN = "env"\n')
        site.deploy(made)

    def secret(verb: str, value: str) -> None:
        given = tmp_path / "value"
        given.write_text(value)
        site.platform.smcp("secret", verb, f"{site.tenant}/bound", "TOKEN", "--from-file", str(given), key=site.admin)

    secret("set", "first-value")
    deploy("one", "one")
    services = [{"binding": "BOUND", "service": "bound"}]
    site.deploy(handmade.project(tmp_path / "binder", binder, {"services": services}))
    assert _call(site, "binder", "ask", "{}") == "one first-value"
    deploy("two", "two")
    assert _call(site, "binder", "ask", "{}") == "two first-value"
    secret("rotate", "second-value")
    assert _call(site, "binder", "ask", "{}") == "two second-value"
    site.act("bound", "stop")
    refused = site.platform.smcp("call", f"{site.tenant}/binder", "ask", "{}", key=site.caller, code=1)
    assert "bound" in json.dumps(refused)
    assert "stopped" in json.dumps(refused)
    site.act("bound", "start")
    assert _call(site, "binder", "ask", "{}") == "two second-value"


@pytest.mark.requirement("workers:kv:outside", "workers:kv:api")
def test_what_the_code_keeps_in_kv_and_what_is_seen_from_outside_are_the_same(
    site: workers.Site, tmp_path: pathlib.Path
) -> None:
    source = """
import { serve } from "./mcp.js";
export default serve({
  put: async ({ key, value }, { NOTES }) => String(await NOTES.put(key, value, { metadata: { by: "code" } })),
  get: async ({ key }, { NOTES }) => JSON.stringify(await NOTES.getWithMetadata(key)),
});
"""
    bound: dict[str, object] = {"kv_namespaces": [{"binding": "NOTES", "id": "shared"}]}
    site.deploy(handmade.project(tmp_path / "sharing", source, bound))
    smcp, space = functools.partial(site.platform.smcp, key=site.admin), f"{site.tenant}/shared"
    _call(site, "sharing", "put", '{"key":"a/ä","value":"inside"}')
    found = smcp("kv", "get", space, "a/ä")
    assert (found["value"], found["metadata"]) == ("inside", {"by": "code"})
    smcp("kv", "put", space, "a/ä", "outside", "--metadata", '{"by": "hand"}')
    assert json.loads(_call(site, "sharing", "get", '{"key":"a/ä"}')) == {
        "value": "outside",
        "metadata": {"by": "hand"},
        "cacheStatus": None,
    }
    smcp("kv", "clear", space, "--yes")
    assert json.loads(_call(site, "sharing", "get", '{"key":"a/ä"}'))["value"] is None


@pytest.mark.requirement("workers:hosted:memory")
def test_the_memory_of_a_tenants_workers_is_what_its_plan_allows(platform: Platform, tmp_path: pathlib.Path) -> None:
    source = """
import { serve } from "./mcp.js";
const kept = [];
export default serve({ take: ({ mib }) => {
  for (let i = 0; i < mib; i++) kept.push(new Uint8Array(1048576).fill(1));
  return String(kept.length);
} });
"""
    for tenant, plan, holds in (("roomy", 268_435_456, True), ("tight", 100_663_296, False)):
        with workers.Site(platform, tenant) as site:
            platform.smcp("tenant", "plan", tenant, "custom", "--base", "standard", "--limit", f"memory_bytes={plan}")
            site.deploy(handmade.project(tmp_path / tenant / "hog", source, {}))
            if holds:
                assert _call(site, "hog", "take", '{"mib":100}') == "100"
            else:
                refused = platform.smcp("call", f"{tenant}/hog", "take", '{"mib":100}', key=site.caller, code=1)
                assert refused["error"]["code"] in ("server_failed", "call_interrupted")
                assert _logged(site, "hog", "memory")
