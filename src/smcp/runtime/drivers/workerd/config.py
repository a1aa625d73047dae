"""What workerd is told, as text in its own language (Cap'n Proto's schema language, "Constants").

All names of services, sockets and modules are the platform's. What a tenant wrote (names of bindings, values, names of
modules, a date) is only ever the content of a string, written in ASCII with everything else escaped byte by byte, so
that no text of theirs can end the string that it stands in.

A Worker's modules get a common directory as a prefix, which no import of theirs notices (they name each other
relatively), and which says in every stack whose code it was. In front of the first one stands a module of ours, which
marks what the Worker writes to the console.
"""

import hashlib
import json
import posixpath
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from smcp.runtime import driver

DOOR: Final = "/run/smcp/door"
"""The platform's socket, as seen inside."""
DATA: Final = "/data"
"""Where a server's volume is, as seen inside."""
HEALTH: Final = "health"
"""The socket of the isolate that only says that the process is there."""

_KINDS: Final = {
    "esm": "esModule",
    "cjs": "commonJsModule",
    "text": "text",
    "data": "data",
    "json": "json",
    "wasm": "wasm",
}
_PLAIN: Final = frozenset(
    b" !#$%&()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~"
)
_OURS_DATE: Final = "2026-01-01"
_OURS: Final = """
const answer = (text, status) => ({ fetch() { return new Response(text, { status }) } });
export default answer("This server may reach nothing: its manifest names no egress.\\n", 403);
export const health = answer(null, 204);
export const cache = { fetch(request) {
  return new Response(null, { status: { GET: 504, PUT: 204, PURGE: 404 }[request.method] ?? 405 });
} };
"""
"""A Worker of ours: where `fetch` ends without egress; who answers the question for health; and a cache that never has
anything (what `caches.default` asks, and how it says so)."""
_NOWHERE: Final = "internet"
"""What it is called: the name of the service that workerd would make by itself, with a way to everywhere, where nobody
has that name, and that everything is sent to for which nobody says otherwise."""
_EMAIL: Final = "cloudflare-internal:email"
_MAIL: Final = """
class EmailMessage { constructor(from, to, raw) { this.from = from; this.to = to; this.raw = raw; } }
export default { EmailMessage };
"""
"""What workerd's own `cloudflare:email` imports, and its open-source build does not have: without it, nothing that
only names that module would start (npm's `agents` does)."""
_FIRST: Final = """import "./smcp-console.js";
export * from %s;
export { default } from %s;
"""
_CONSOLE: Final = """const mark = %s;
for (const name of ["debug", "error", "info", "log", "trace", "warn"]) {
  const write = console[name]?.bind(console);
  if (write) console[name] = (first, ...more) =>
    typeof first === "string" ? write(mark + first, ...more) : write(mark, first, ...more);
}
addEventListener("unhandledrejection", (event) => console.error("Uncaught (in promise)", event.reason));
"""


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Capabilities of one Worker's bindings, by the binding's name."""

    kv: tuple[tuple[str, str], ...] = ()
    buckets: tuple[tuple[str, str], ...] = ()
    outbound: str = ""
    """Empty: it reaches nothing."""

    def __repr__(self) -> str:
        return "Keys()"


class Isolate(msgspec.Struct, frozen=True, kw_only=True):
    """One Worker, as a process is told of it."""

    number: int
    worker: driver.Worker
    variables: tuple[tuple[str, str], ...]
    """Further variables by name, as text: the environment."""
    root: str
    """Where its artefact is, as seen inside."""
    keys: Keys
    neighbours: tuple[tuple[str, int], ...] = ()
    """Its services, which are in the same process: binding and number."""
    token: str
    """What only its own code knows, and the platform: whose a line is, is told by it."""

    @property
    def mark(self) -> str:
        """What its lines on the console begin with."""
        return f"\x01{self.token}\x02"

    @property
    def prefix(self) -> str:
        """The directory that its modules are in, for their names, which stacks show."""
        return f"smcp-{self.token}"

    @property
    def socket(self) -> str:
        """What its socket is called."""
        return f"socket-{self.number}"

    @property
    def service(self) -> str:
        """What it is called as a whole."""
        return f"worker-{self.number}"

    def __repr__(self) -> str:
        return f"Isolate({self.number})"


def text(isolates: Sequence[Isolate], *, heap_mb: int) -> bytes:
    """The configuration of one process. `heap_mb`: the largest heap of one isolate; above that the process ends."""
    services = [_group(name=_string(_NOWHERE), worker=_ours())]
    health = _group(name=_string(_NOWHERE), entrypoint=_string("health"))
    sockets = [_group(name=_string(HEALTH), http="()", service=health)]
    for one in isolates:
        services += [*_externals(one), _group(name=_string(one.service), worker=_worker(one))]
        sockets.append(_group(name=_string(one.socket), http="()", service=_string(one.service)))
    if any(one.worker.durables for one in isolates):
        services.append(_group(name=_string("disk"), disk=_group(path=_string(DATA), writable="true")))
    # Young generations as small as cost no measurable processor time: an idle isolate keeps both halves of its own.
    flags = (f"--max-old-space-size={heap_mb}", "--max-semi-space-size=1")
    config = _group(
        v8Flags=_list(map(_string, flags)),
        logging=_group(structuredLogging="true"),
        extensions=_list(
            [_group(modules=_list([_group(name=_string(_EMAIL), internal="true", esModule=_string(_MAIL))]))]
        ),
        services=_list(services),
        sockets=_list(sockets),
    )
    return f'using Workerd = import "/workerd/workerd.capnp";\nconst config :Workerd.Config = {config};\n'.encode(
        "ascii"
    )


def _ours() -> str:
    module = _group(name=_string("smcp.js"), esModule=_string(_OURS))
    return _group(modules=_list([module]), compatibilityDate=_string(_OURS_DATE), globalOutbound=_string(_NOWHERE))


def _worker(one: Isolate) -> str:
    worker = one.worker
    fields = {
        "modules": _list(_modules(one)),
        "compatibilityDate": _string(worker.compatibility_date),
        "compatibilityFlags": _list(map(_string, worker.compatibility_flags)),
        "bindings": _list(_bindings(one)),
        "globalOutbound": _string(_external(one, "outbound")) if one.keys.outbound else _string(_NOWHERE),
        "cacheApiOutbound": _group(name=_string(_NOWHERE), entrypoint=_string("cache")),
    }
    if worker.durables:
        fields["durableObjectNamespaces"] = _list(
            _group(
                className=_string(durable.class_name),
                uniqueKey=_string(_unique(durable.key)),
                enableSql="true" if durable.sqlite else "false",
            )
            for durable in worker.durables
        )
        fields["durableObjectStorage"] = _group(localDisk=_string("disk"))
    return _group(**fields)


def _unique(key: str) -> str:
    """It names a directory: whatever a tenant wrote, it is a plain one."""
    return hashlib.sha256(key.encode()).hexdigest()


def _modules(one: Isolate) -> list[str]:
    first = one.worker.modules[0]
    main = _quoted(f"./{first.name}")
    made = [
        (f"{one.prefix}/smcp-first.js", "esModule", _string(_FIRST % (main, main))),
        (f"{one.prefix}/smcp-console.js", "esModule", _string(_CONSOLE % _quoted(one.mark))),
    ]
    for module in one.worker.modules:
        file = f"embed {_string(posixpath.join(one.root, 'worker', module.name))}"
        made.append((f"{one.prefix}/{module.name}", _KINDS[module.kind], file))
    return [_group(**{"name": _string(name), kind: content}) for name, kind, content in made]


def _bindings(one: Isolate) -> list[str]:
    worker = one.worker
    found = [_group(name=_string(name), text=_string(value)) for name, value in one.variables]
    for name, value in worker.variables:
        decoded: object = json.loads(value)
        kind, content = ("text", decoded) if isinstance(decoded, str) else ("json", value)
        found.append(_group(**{"name": _string(name), kind: _string(content)}))
    for kind, bound, keys in (
        ("kvNamespace", worker.kv, one.keys.kv),
        ("r2Bucket", worker.buckets, one.keys.buckets),
    ):
        known = dict(keys)
        found += [
            _group(**{"name": _string(name), kind: _string(_external(one, f"{kind}-{number}"))})
            for number, (name, _) in enumerate(bound)
            if name in known
        ]
    found += [
        _group(name=_string(durable.binding), durableObjectNamespace=_group(className=_string(durable.class_name)))
        for durable in worker.durables
    ]
    return [*found, *_services(one)]


def _services(one: Isolate) -> list[str]:
    near = dict(one.neighbours)
    found: list[str] = []
    for service in one.worker.services:
        if service.binding in near:
            there = {"name": _string(f"worker-{near[service.binding]}")}
            if service.entrypoint:
                there["entrypoint"] = _string(service.entrypoint)
            found.append(_group(name=_string(service.binding), service=_group(**there)))
    return found


def _externals(one: Isolate) -> list[str]:
    """What of its bindings leads to the platform."""
    found: list[tuple[str, str, str]] = []
    for kind, bound, keys in (
        ("kvNamespace", one.worker.kv, one.keys.kv),
        ("r2Bucket", one.worker.buckets, one.keys.buckets),
    ):
        known = dict(keys)
        found += [
            (_external(one, f"{kind}-{number}"), known[name], "host")
            for number, (name, _) in enumerate(bound)
            if name in known
        ]
    if one.keys.outbound:
        found.append((_external(one, "outbound"), one.keys.outbound, "proxy"))
    return [_group(name=_string(name), external=_door(key, style)) for name, key, style in found]


def _external(one: Isolate, what: str) -> str:
    return f"worker-{one.number}-{what}"


def _door(key: str, style: str) -> str:
    shown = _group(name=_string("x-smcp-capability"), value=_string(key))
    return _group(address=_string(f"unix:{DOOR}"), http=_group(style=style, injectRequestHeaders=_list([shown])))


def _quoted(text: str) -> str:
    """A string of JavaScript; ASCII, as JSON is one (ECMA-262, "Subsume JSON")."""
    return json.dumps(text)


def _string(text: str) -> str:
    """A string of Cap'n Proto's language, in which nothing but itself ends it."""
    return '"' + "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in text.encode()) + '"'


def _group(**fields: str) -> str:
    return "(" + ", ".join(f"{name} = {value}" for name, value in fields.items()) + ")"


def _list(items: Iterable[str]) -> str:
    return "[" + ", ".join(items) + "]"
