"""A private legacy session of modern clients, the calls on it, and what its server asks in them.

A legacy server does not say which request its question belongs to. It is taken for the newest call's that can be
answered with questions; where that is wrong, nothing is lost: all of them are the same principal's, with the same
capabilities, and the answer goes back under the server's own id.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from smcp.gateway import living
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import upward
from smcp.protocol.validate import messages
from smcp.runtime import calls, driver

OPEN: Final = 16
"""Questions of one call that wait at a time."""
_OPEN_BYTES: Final = 1024 * 1024
_NOTICES: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        upward.UPDATED,
    }
)
_DROPPED: Final = frozenset({"notifications/elicitation/complete", "notifications/tasks/status"})
"""What the modern wire has no place for: there, the client's retry says that it is done."""


class Table(Protocol):
    """Where a call is one of many: `parked.Parked`."""

    def room(self, tenant: ids.TenantId, size: int) -> bool:
        """May `size` bytes more of questions wait? They count until `give`."""
        ...

    def give(self, tenant: ids.TenantId, size: int) -> None:
        """So many bytes wait no more."""
        ...

    def forget(self, run: "Run") -> None:
        """The call does not wait for its client any more."""
        ...


class Listener(Protocol):
    """One `subscriptions/listen`."""

    def hear(self, frame: jsonrpc.Frame) -> None:
        """A notice of the server."""
        ...


class Question(NamedTuple):
    """What the server asked."""

    id: bytes
    """The server's own, JSON-encoded; empty where nothing waits in the server (-32042)."""
    method: str
    params: bytes


class Run:
    """One call, from its first request to its end, over the retries that carry it on."""

    def __init__(self, private: "Private", message: jsonrpc.Message) -> None:
        self.private = private
        self.method = message.method
        self.told: jsonrpc.Json = {"uri": message.params.get("uri")} if message.method == "resources/read" else {}
        """Of its params, what an error has to name: all of them would be too much to keep while it waits."""
        self.digest = b""
        """What its retries must have in common with it; worked out when it is parked."""
        self.takes = message.method in upward.ASKABLE
        self.call: calls.Call | None = None
        self.number = 0
        self.token = b""
        """The progress token of the request that carries it now; empty without one."""
        self.level = ""
        """From which severity on that request wants log messages."""
        self.questions: dict[str, Question] = {}
        self.lacking: jsonrpc.Json = {}
        """Client capabilities that a refused question would have taken."""
        self.again = False
        """Nothing waits in the server: it gets the request once more when its client comes back (-32042)."""
        self.ready_answers: dict[str, msgspec.Raw] = {}
        """`inputResponses` that came with the first request: a client may know what a server names its questions."""
        self.inherited = False
        """What it asks has nothing to do with it: the server asked while there was no call."""
        self.declined = False
        """Its user does not want to be at the address that it needs."""
        self.attached = True
        """A request carries it."""
        self.ticket = b""
        """What the `requestState` of now names."""
        self.timer: asyncio.TimerHandle | None = None
        self.born = time.monotonic()
        self.first = self.heard = 0.0
        """When the oldest question that waits has come, and the last word of the server."""
        self.over = False
        self._counts: collections.Counter[str] = collections.Counter()
        self._held = 0

    def ready(self, message: jsonrpc.Message) -> calls.Call:
        """What its request has to wait for; sent to the server if it has to be. Raises what `Calls.send` raises."""
        if self.call is None or (self.again and not self.questions):
            if self.call is not None:
                self.private.instance.calls.forget(self.number)
                self.call.release()
            self.number, self.call = self.private.send(message)
            self.again = False
        return self.call

    def answer(self, given: Mapping[str, bytes]) -> None:
        """Give the server the client's answers, by the keys of its questions."""
        for key, raw in given.items():
            if key not in self.questions:
                continue  # withdrawn meanwhile
            question = self.take(key)
            if question.id:
                self.private.reply(jsonrpc.result(question.id, raw), question.id)
            elif upward.member(msgspec.Raw(raw), "action") != "accept":
                self.declined = True

    def attach(self, message: jsonrpc.Message) -> None:
        """A request carries it on."""
        self.attached = True
        self.token, self.level = upward.token(message.params), upward.level(message.params)
        if self.call is not None:
            self.call.wake()  # nobody watches any more

    def detach(self) -> None:
        """Nobody carries it for now: what its server says beside questions is heard by nobody."""
        self.attached = False
        self.ready_answers = {}
        self._pump()

    def _pump(self) -> None:
        call = self.call
        if self.attached or self.over or call is None:
            return
        while call.frames:
            self.private.heard(self, call.take())
        if not call.done:
            call.watch(self._pump)

    def ask(self, named: str, question: Question) -> bool:
        """The server asks something; False when too much waits already."""
        known = self.ready_answers.pop(named, None) if named else None
        if known is not None and not self.private.wrong(question, known):
            self.private.reply(jsonrpc.result(question.id, known), question.id)
            return True
        size = len(question.params)
        if len(self.questions) >= OPEN or self._held + size > _OPEN_BYTES:
            return False
        if not self.private.table.room(self.private.session.tenant, size):
            return False
        self._held += size
        now = time.monotonic()
        if not self.questions:
            self.first = now
        self.heard = now
        self.questions[self._key(named, question.method)] = question
        if self.attached and self.call is not None:
            self.call.wake()
        return True

    def _key(self, named: str, method: str) -> str:
        # The ordinal counts what this call was asked: the same question has the same key however often it is shown.
        word = upward.QUESTIONS[method]
        self._counts[word] += 1
        while not named or named in self.questions:
            named = f"{word}-{self._counts[word]}"
            if named in self.questions:
                self._counts[word] += 1
        return named

    def take(self, key: str) -> Question:
        """A question that waits no more."""
        question = self.questions.pop(key)
        self._held -= len(question.params)
        self.private.table.give(self.private.session.tenant, len(question.params))
        return question

    def end(self, why: str) -> None:
        """It is over, for a reason in a few words. Idempotent."""
        if self.over:
            return
        self.over = True
        self.private.table.forget(self)
        if self.timer is not None:
            self.timer.cancel()
        self.private.leave(self)
        call, handed = self.call, self.private.instance.calls
        if call is not None:
            if call.done:
                handed.forget(self.number)
            else:
                handed.cancel(self.number, why)
            call.release()
        for key in list(self.questions):
            self.private.rehome(self.take(key), answered=call is not None and call.done)


class Private:
    """One private session, and all that goes on in it."""

    def __init__(
        self,
        table: Table,
        session: living.Session,
        instance: driver.Instance,
        declared: jsonrpc.Json,
        answer: jsonrpc.Json,
    ) -> None:
        """`declared`: the client's capabilities; `answer`: the result of `initialize`."""
        self.table = table
        self.session = session
        self.instance = instance
        self.declared = declared
        self.described = upward.described(answer)
        self.info = upward.info(answer.get("serverInfo"))
        self.offers = upward.offered(answer.get("capabilities"))
        self.runs: list[Run] = []
        """In the order of their coming."""
        self.listeners: list[Listener] = []
        self.uris: collections.Counter[str] = collections.Counter()
        """Subscriptions, and how many listeners each has."""
        self.changing = asyncio.Lock()
        """Held while the level or a subscription changes."""
        self.level = ""
        """The severity from which on the server was told to log."""
        self._tokens = 0
        self._orphans: list[tuple[str, Question]] = []
        """What the server asked while there was no call that could ask it, with the server's names: for the next."""
        session.sink = self._stray

    @property
    def alive(self) -> bool:
        """May it take another request?"""
        return not self.session.over and self.instance.alive

    # --- calls ---

    def enter(self, run: Run) -> None:
        """A call begins."""
        self.session.busy += 1
        self.runs.append(run)
        if run.takes:
            for named, question in self._given_up():
                run.inherited = True
                self._place(run, question, named)

    def _given_up(self) -> list[tuple[str, Question]]:
        orphans, self._orphans = self._orphans, []
        for _, question in orphans:
            self.table.give(self.session.tenant, len(question.params))
        return orphans

    def close(self) -> None:
        """The session has ended."""
        self._given_up()

    def leave(self, run: Run) -> None:
        """A call is over."""
        self.runs.remove(run)
        self.session.busy -= 1
        self.session.used = self.session.table.now()

    def send(self, message: jsonrpc.Message) -> tuple[int, calls.Call]:
        """Hand a modern request to the server, in its own words."""
        # A token of ours: clients choose theirs, and several may share this session.
        self._tokens += 1
        return self.instance.calls.send(upward.lowered(message, self._tokens))

    def wrong(self, question: Question, answer: msgspec.Raw) -> str:
        """What is wrong with an answer to a question; empty when nothing is."""
        return messages.client_result(self.session.version or upward.VERSION, question.method, bytes(answer))

    def level_wanted(self) -> str:
        """The least severity that a request which is carried now asks for; empty when none does."""
        levels = [run.level for run in self.runs if run.attached and run.level]
        return min(levels, key=upward.LEVELS.index, default="")

    # --- what the server says ---

    def _stray(self, data: bytes) -> None:
        self.heard(None, data)

    def heard(self, run: Run | None, data: bytes) -> bytes | None:
        """A message of the server that is no response, on the call of `run` or on none. What is for the stream of the
        request that carries it, as that is to have it."""
        frame = jsonrpc.frame(data)
        if run is not None:
            run.heard = time.monotonic()
        try:
            return self._heard(run, frame, data)
        except errors.ParseError:
            # Not JSON deep inside, where nobody had looked before: it is the server's fault, and no call's end.
            self.refuse(bytes(frame.id), errors.InvalidParams.rpc_code, "The params can't be read.")
            return None

    def _heard(self, run: Run | None, frame: jsonrpc.Frame, data: bytes) -> bytes | None:
        if frame.id:
            self._asked(run, frame)
        elif frame.method in _NOTICES:
            for listener in list(self.listeners):
                listener.hear(frame)
        elif frame.method == "notifications/cancelled":
            self._withdrawn(frame.params)
        elif frame.method == "notifications/message":
            return self._logged(run, frame, data)
        elif run is None or frame.method in _DROPPED:
            pass
        elif frame.method == "notifications/progress":
            return upward.progress(frame.params, run.token) if run.token else None
        else:
            return data
        return None

    def _logged(self, run: Run | None, frame: jsonrpc.Frame, data: bytes) -> bytes | None:
        """Log messages are for requests that asked; a legacy server does not say whose one is."""
        told = upward.member(frame.params, "level")
        severity = upward.LEVELS.index(told) if told in upward.LEVELS else 0
        if run is not None and run.level:
            return data if severity >= upward.LEVELS.index(run.level) else None
        other = next((one for one in reversed(self.runs) if one.attached and one.level), None)
        if other is not None and other.call is not None:
            other.call.push(data)
        return None

    def _asked(self, run: Run | None, frame: jsonrpc.Frame) -> None:
        id_raw = bytes(frame.id)
        if frame.method == "ping":
            self.reply(jsonrpc.result(id_raw, b"{}"), id_raw)
            return
        if frame.method not in upward.QUESTIONS or upward.member(frame.params, "task") is not None:
            self.refuse(id_raw, errors.MethodNotFound.rpc_code, "This client can't be asked that.")
            return
        home = self._home(run)
        wanted = upward.needed(frame.method, frame.params)
        if upward.lacks(self.declared, wanted):
            if home is not None:
                home.lacking = _merged(home.lacking, wanted)
            text = f"The client did not declare what {frame.method} takes: {jsonrpc.encode(wanted).decode()}."
            self.refuse(id_raw, errors.MethodNotFound.rpc_code, text)
            return
        named, params = upward.asked(frame.params)
        self._place(home, Question(id_raw, frame.method, params), named)

    def rehome(self, question: Question, *, answered: bool) -> None:
        """The call that a question was taken for is over: `answered`, or cancelled. It may be another one's.

        Else nobody is asked any more for the sake of a call that is over; roots concern the whole session.
        """
        home = self._home(None)
        if home is not None or (answered and question.method == "roots/list"):
            self._place(home, question, "")
        else:
            self.refuse(question.id, errors.Unavailable.rpc_code, "The call that this was asked in is over.")

    def _place(self, home: Run | None, question: Question, named: str) -> None:
        if home is not None:
            taken = home.ask(named, question)
        else:
            taken = len(self._orphans) < OPEN and self.table.room(self.session.tenant, len(question.params))
            if taken:
                self._orphans.append((named, question))
        if not taken:
            text = f"Too much waits for the client's answers already: at most {OPEN} questions."
            self.refuse(question.id, errors.Unavailable.rpc_code, text)

    def _home(self, run: Run | None) -> Run | None:
        if run is not None and run.takes and not run.over:
            return run
        open_runs = (one for one in reversed(self.runs) if one.takes and one.call is not None and not one.call.done)
        return next(open_runs, None)

    def _withdrawn(self, params: Any) -> None:
        """The server does not want to know any more what it asked."""
        wanted = upward.member(params, "requestId")
        if type(wanted) not in (str, int):
            return
        for run in self.runs:
            for key, question in list(run.questions.items()):
                if _names(question, wanted):
                    run.take(key)
        for named, question in self._given_up():
            if not _names(question, wanted):
                self._place(None, question, named)

    # --- what it is told ---

    def reply(self, body: bytes, id_raw: bytes) -> None:
        """Answer a question. Never raises: a server that is gone needs no answer."""
        with contextlib.suppress(errors.SmcpError):
            self.instance.calls.answer(jsonrpc.Message(jsonrpc.Kind.RESPONSE, "", {}, id_raw, b"", body))

    def refuse(self, id_raw: bytes, code: int, text: str) -> None:
        """Answer a question with an error."""
        if id_raw:
            self.reply(jsonrpc.error(id_raw, code, text), id_raw)

    def tell(self, method: str, params: jsonrpc.Json) -> None:
        """A request of ours whose answer nobody waits for."""
        with contextlib.suppress(errors.SmcpError):
            number, call = self.instance.calls.ask(method, jsonrpc.encode(params))

            def heard() -> None:
                while call.frames:
                    self.heard(None, call.take())
                if call.done:
                    self.instance.calls.forget(number)
                    call.release()
                else:
                    call.watch(heard)

            call.watch(heard)


def _names(question: Question, wanted: object) -> bool:
    return bool(question.id) and jsonrpc.decode(question.id) == wanted


def _merged(known: jsonrpc.Json, more: jsonrpc.Json) -> jsonrpc.Json:
    return {**known, **{name: {**known.get(name, {}), **inner} for name, inner in more.items()}}
