"""`python -m smcp.app.node CONTROL LAUNCHER LISTENER`: the platform's own process, which faces the network.

Started as root, it gives that up before it has read anything from anybody. It is told what to run on standard input,
by the foreground, and ends when the foreground does (the control socket's end).
"""

import asyncio
import gc
import os
import resource
import socket
import sys
from typing import Final

import msgspec
import uvloop

from smcp.app import machine, serve
from smcp.kernel import certificates, errors, settings
from smcp.sandbox import demote

LARGEST: Final = 65_536

_COLLECT: Final = (20_000, 20, 50)
"""Objects between two looks of the garbage collector; Python's own 700 suit scripts."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is started with. It may hold credentials of package sources: never in argv or the environment."""

    settings: settings.Settings
    machine: machine.Machine
    pair: certificates.Pair | None = None
    """What `settings.tls` names, read by who may."""

    def __repr__(self) -> str:
        return "Plan(…)"


class Operator(msgspec.Struct, tag="operator", frozen=True):
    """Asked by the foreground: an operator's key, if there is none (or `another`)."""

    another: bool


class SetUp(msgspec.Struct, tag="set_up", frozen=True):
    """Asked by the foreground: the code that makes the first account, if it is time for one."""


class Certificate(msgspec.Struct, tag="certificate", frozen=True):
    """Told by the foreground: the certificate's files have changed. There is no answer; the log has it."""

    pair: certificates.Pair | None
    """None: they can't be read."""
    why: str = ""


class Ready(msgspec.Struct, tag="ready", frozen=True):
    """It listens."""

    url: str


class Key(msgspec.Struct, tag="key", frozen=True):
    """The text of a new operator's key, or None."""

    text: str | None

    def __repr__(self) -> str:
        return "Key(…)"


class Code(msgspec.Struct, tag="code", frozen=True):
    """A set-up code, or None."""

    text: str | None

    def __repr__(self) -> str:
        return "Code(…)"


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """It can't start, or can't do what was asked: an error of `smcp.kernel.errors`, by its class's name."""

    kind: str
    public: str
    detail: str


Said = Ready | Key | Code | Refused
Heard = Operator | SetUp | Certificate


async def _main(plan: Plan, control: socket.socket, launcher: socket.socket, listener: socket.socket) -> int:
    control.setblocking(False)
    loop = asyncio.get_running_loop()

    async def say(message: Said) -> None:
        await loop.sock_sendall(control, msgspec.json.encode(message))

    try:
        platform = await serve.Platform.start(plan.settings, listener, plan.machine, launcher, plan.pair)
    except errors.SmcpError as error:
        await say(Refused(type(error).__name__, error.public, error.detail or ""))
        return 1
    _settle()
    try:
        await say(Ready(platform.base_url))
        lost = asyncio.create_task(platform.lost.wait())
        while not lost.done():
            heard = asyncio.create_task(loop.sock_recv(control, LARGEST))
            await asyncio.wait((heard, lost), return_when=asyncio.FIRST_COMPLETED)
            if not heard.done() or not heard.result():
                heard.cancel()
                break
            question = msgspec.json.decode(heard.result(), type=Heard)
            if isinstance(question, Certificate):
                platform.certify(question.pair, question.why)
                continue
            try:
                if isinstance(question, SetUp):
                    await say(Code(await platform.set_up()))
                else:
                    await say(Key(await platform.ensure_operator(another=question.another)))
            except errors.SmcpError as error:
                await say(Refused(type(error).__name__, error.public, error.detail or ""))
        ended = lost.done()
        lost.cancel()
    finally:
        await platform.stop()
    return 1 if ended else 0


def _settle() -> None:
    """What start-up made stays until the end: the collector need not look at it again, nor look so often.

    A request leaves no cycles behind; each look costs all tenants a pause.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


def main() -> int:
    """Run one node."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    control, launcher, listener = (socket.socket(fileno=int(word)) for word in sys.argv[1:4])
    for one in (control, launcher, listener):
        os.set_inheritable(one.fileno(), False)
    # One for each connection; a shell's usual 1024 would be used up long before `http.CONNECTIONS`.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if plan.machine.uid != os.geteuid():
        demote.drop(plan.machine.uid, plan.machine.needed(plan.settings))
    return uvloop.run(_main(plan, control, launcher, listener))


if __name__ == "__main__":
    sys.exit(main())
