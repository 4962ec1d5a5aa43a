"""The handle that a run writes through.

A run gets a `Generation` and calls its verbs; each becomes an event of the vocabulary, placed (which part a delta
belongs to), checked and queued for the log. Whoever started the run decides how it ends; see `runs.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

import msgspec

from unspool import events
from unspool.billing import Billing
from unspool.content import Snapshot
from unspool.errors import GenerationStopped, InvalidEvent, RunFailed, UnspoolError
from unspool.events import DELTAS, Event, check_event, check_marks, check_text, encode_bounded
from unspool.jobs import GenerationKey, Job, Metadata, Status, call_id
from unspool.sources import Graph, Sources
from unspool.terminals import Completed
from unspool.writer import LogWriter, Part

if TYPE_CHECKING:
    from unspool.billing import Metered

_log = logging.getLogger("unspool")
_CAPTURED: Final = ("conversation_id", "user_message", "response_id", "sender", "model")
_ATTEMPTS: Final = 10_000
"""Model calls of one step that a run makes at most: those of a run that is gone on with have numbers of their own."""
_ID_CHARS: Final = 256
"""Up to which an ASCII id of a part can be written as it is, and is small."""
_BREAKS: Final = frozenset(
    {events.TOOL_CALL, events.AGENT_UPDATE, events.FILE, events.SOURCE, events.STEER_APPLIED, events.STEP_STARTED}
)
"""Events after which text begins a new part."""


class Generation:
    """One running generation, as its run sees it.

    Every verb that writes waits while the log's backlog is full, and raises GenerationStopped once the generation was
    stopped or has ended (Fenced when another owner took it over), InvalidEvent for what no log may hold. `stopping` is
    set when the run should come to its end: whoever waits for something outside may wait for it as well.
    """

    def __init__(
        self, job: Job, writer: LogWriter, snapshot: Callable[[], Awaitable[Snapshot]], billing: Billing
    ) -> None:
        self.job = job
        self.stopping = asyncio.Event()
        self.verdict = Completed()
        self.failure: RunFailed | None = None  # why live sources are read no more: the run does not complete
        self._writer = writer
        self._snapshot = snapshot
        self._billing = billing
        self._open_parts: dict[str | None, Part] = {}  # agent → the part that its deltas go on with
        self._parts = 0
        self._calls: dict[tuple[str, str], int] = {}
        self._pending_approvals: set[str] = set()
        self._sources: Sources | None = None

    def __repr__(self) -> str:
        return f"<Generation {self.key} last={self._writer.last} stopping={self.stopping.is_set()}>"

    @property
    def key(self) -> GenerationKey:
        return self.job.key

    @property
    def stream_id(self) -> str:
        return self.job.stream_id

    @property
    def generation(self) -> int:
        return self.job.generation

    @property
    def attempt(self) -> int:
        """1, or more where the run goes on after its owner was lost: what it said before is in `snapshot`."""
        return self.job.lease.epoch

    @property
    def paused(self) -> bool:
        """It waits for an approval: silence is no stall."""
        return bool(self._pending_approvals)

    async def emit(self, type: str, data: Mapping[str, Any] | None = None, *, internal: bool = False) -> None:
        """Emit an event of any type. `internal`, here or in the data, keeps it on the server."""
        await self.emit_event(Event(type, dict(data) if data is not None else {}, internal))

    async def emit_event(self, event: Event) -> None:
        """Emit an event that exists already: what `emit` and `relay` do."""
        self._refuse_when_stopping(event.type)
        self._put(event)
        if self._writer.full:
            await self._writer.room()

    def _put(self, event: Event) -> None:
        check_event(event)
        kind, data = event.type, event.data
        internal = event.internal or data.get("internal") is True
        if kind in DELTAS:
            self._put_delta(kind, data, internal)
        else:
            payload = encode_bounded(data, where=f"data of {kind!r}")
            metadata = _captured(kind, data, payload)
            self._writer.put(kind, payload, internal)
            # From here on nothing refuses the event: one that is refused changes nothing.
            if metadata:
                self._writer.put_metadata(metadata)
            if kind in _BREAKS:
                self._open_parts.pop(data.get("agent"), None)
            self._note(kind, data)

    async def text(self, text: str, **marks: str) -> None:
        """Emit a piece of text. `marks`: `part_id`, `agent`, `group`, `step`; without a part id it goes on with the
        part that the agent's last delta went to."""
        if self.stopping.is_set():
            self._refuse_when_stopping(events.TEXT_DELTA)
        if marks:
            check_marks(events.TEXT_DELTA, marks)
            self._put_delta(events.TEXT_DELTA, {"text": text, **marks}, False)
        else:
            part = self._open_parts.get(None)
            if part is None or part.type != events.TEXT_DELTA or part.marks or part.internal:
                part = self._part(events.TEXT_DELTA, None, None, b"", False)
            self._writer.put_delta(part, check_text(text))
        if self._writer.full:
            await self._writer.room()

    async def reasoning(self, text: str, **marks: str) -> None:
        """Emit a piece of reasoning, placed as `text` is."""
        await self.emit_event(Event(events.REASONING_DELTA, {"text": text, **marks}))

    async def tool_call(self, call_id: str, name: str, arguments: object = None, **marks: str) -> None:
        """Say that a tool is called; `arguments`: JSON text or any JSON value, or None when deltas will bring them."""
        data: dict[str, Any] = {"call_id": call_id, "name": name, **marks}
        if arguments is not None:
            data["arguments"] = arguments
        await self.emit_event(Event(events.TOOL_CALL, data))

    async def tool_result(self, call_id: str, output: object, **marks: str) -> None:
        """Say what a tool answered: any JSON value."""
        await self.emit_event(Event(events.TOOL_RESULT, {"call_id": call_id, "output": output, **marks}))

    async def tool_error(self, call_id: str, message: str, **marks: str) -> None:
        """Say that a tool failed."""
        await self.emit_event(Event(events.TOOL_ERROR, {"call_id": call_id, "message": message, **marks}))

    async def usage(self, call_id: str, **usage: Any) -> None:
        """Report one model call's usage (the fields of `ledger.Usage`, model, provider). Taken while stopping, too."""
        await self.emit_event(Event(events.USAGE, {"call_id": call_id, **usage}))

    async def relay(self, stream: AsyncIterator[Event], *, call: Metered | None = None) -> None:
        """Emit everything that a model streams; the model is stopped when the run is.

        `call`: the metered call that this is (see `model_call`), which then tells the usage in the stream's place.
        """
        async with _closing(stream):
            async for event in stream:
                if call is not None:
                    call.observe(event)
                    if event.type == events.USAGE:
                        continue
                await self.emit_event(event)

    @asynccontextmanager
    async def model_call(
        self, *, provider: str, model: str, agent: str = "main", step: str = "0", **more: Any
    ) -> AsyncGenerator[Metered, None]:
        """Meter one model call, and charge it where the generation has an account: however the block is left.

            async with gen.model_call(provider="openai", model="gpt-5") as call:
                async for chunk in stream:
                    call.observe(chunk)

        On leaving, a `usage` event says what was used and, once that is committed, what it cost. `more`: see
        `Ledger.call`. Raises InsufficientBalance, Fenced and UnknownPrice before the call is made: then nothing may be
        sent.
        """
        self._refuse_when_stopping("a model call")
        attempt = self._attempt(agent, step)
        call = self._billing.call(
            self.job, attempt=attempt, provider=provider, model=model, agent=agent, step=step, **more
        )
        try:
            async with call:
                yield call
        finally:
            event = call.event()
            if event is not None:
                self._tell_usage(event)

    def _tell_usage(self, event: Event) -> None:
        try:
            self._put(event)
        except GenerationStopped:
            _log.info("%s: the usage of a call came after the end, and is not in its log: %s", self.key, event.data)

    def sources(
        self,
        *,
        parts: Sequence[Mapping[str, Any] | None] | None = None,
        usage: Sequence[Mapping[str, Any]] | None = None,
        graph: Graph | None = None,
    ) -> None:
        """Hand over live objects that grow while the run goes on, instead of emitting what they gain: see `Sources`.

        They are read by `collect`, by `snapshot`, every `Options.poll` seconds, and once more before the seal, however
        the run ends; a run whose log refuses what they hold fails. Raises InvalidEvent when sources were handed over
        before, or parts and a graph together.
        """
        if self._sources is not None:
            raise InvalidEvent("this generation has its sources already: hand over all of them in one call")
        self._sources = Sources(parts=parts, usage=usage, graph=graph, call_id=self.call_id)

    async def collect(self) -> None:
        """Emit now what the live sources have gained. Raises InvalidEvent where something told was changed."""
        self._refuse_when_stopping("live content")
        self._put_gained()
        if self._writer.full:
            await self._writer.room()

    def collect_quietly(self) -> None:
        """Collect without waiting and without raising, also while it is stopped. A refused event becomes `failure`."""
        if self._sources is None or (self._writer.full and not self.stopping.is_set()):
            return
        try:
            self._put_gained()
        except UnspoolError as error:
            _log.warning("%s: its live sources are read no more: %s", self.key, error)
            self._sources = None
            if isinstance(error, InvalidEvent):
                self.failure = RunFailed(error.message, code=error.code)
            elif isinstance(error, RunFailed):
                self.failure = error
        except Exception:  # noqa: BLE001
            # The application's own objects: they must not keep a generation from its seal.
            _log.exception("%s: its live sources cannot be read, and are read no more", self.key)
            self._sources = None

    def _put_gained(self) -> None:
        if self._sources is not None:
            for event in self._sources.gained():
                self._put(event)

    async def update(self, **metadata: Any) -> None:
        """Set fields of the job's metadata; None clears one, the others stay, and `extra` is merged by key (RFC 7396).
        Raises InvalidArgument."""
        changes = Metadata.changes(metadata)
        self._refuse_when_stopping("metadata")
        self._writer.put_metadata(changes)
        await self._writer.flush()

    def finish(self, *, message: Mapping[str, Any] | None = None, finish_reason: str | None = None) -> None:
        """Say what the terminal record will carry when the run returns; a run that fails afterwards still fails."""
        reason, final = self.verdict.finish_reason, self.verdict.message
        if finish_reason:
            reason = check_text(finish_reason, where="finish_reason")
        if message is not None:  # a copy: the run may change its own objects until the seal
            final = msgspec.json.decode(encode_bounded(dict(message), where="message"))
        self.verdict = Completed(reason, final)

    async def snapshot(self) -> Snapshot:
        """The content so far, with all that was emitted before this call. A copy."""
        self.collect_quietly()
        await self._writer.flush()
        return await self._snapshot()

    def call_id(self, agent: str = "main", step: str = "0") -> str:
        """A new id for a model call: `{stream}/{generation}/{agent}/{step}/{attempt}`, never given twice."""
        return call_id(self.key, agent, step, self._attempt(agent, step))

    def _attempt(self, agent: str, step: str) -> int:
        number = self._calls[agent, step] = self._calls.get((agent, step), 0) + 1
        return (self.attempt - 1) * _ATTEMPTS + number

    def statistics(self) -> dict[str, Any]:
        """Figures for people and metrics: last offset, bytes written, whether it is stopping."""
        return {"offset": self._writer.last, "bytes": self._writer.bytes, "stopping": self.stopping.is_set()}

    def _refuse_when_stopping(self, kind: str) -> None:
        # What a stopped call has used is truth and must be told; everything else came too late.
        if self.stopping.is_set() and kind != events.USAGE:
            raise GenerationStopped(f"{self.job.label} was stopped; {kind} came too late")

    def _put_delta(self, kind: str, data: Mapping[str, Any], internal: bool) -> None:
        text = check_text(data["text"])
        name = DELTAS[kind]
        fields = {**data}
        del fields["text"]
        part_id = fields.pop(name, None)
        fields.pop("internal", None)
        if part_id is not None and not (len(part_id) <= _ID_CHARS and part_id.isascii()):
            encode_bounded(part_id, where=name)
        # Encoded now: the run may change its objects before an append takes them.
        marks = encode_bounded(fields, where=kind) if fields else b""
        if kind == events.TOOL_ARGS_DELTA:
            part = Part(kind, data["call_id"], marks, internal)
        else:
            part = self._part(kind, data.get("agent"), part_id, marks, internal)
        self._writer.put_delta(part, text)

    def _part(self, kind: str, agent: str | None, part_id: str | None, marks: bytes, internal: bool) -> Part:
        """The part that a delta belongs to: the one that it names, else the one that its agent's last delta went to."""
        opened = self._open_parts.get(agent)
        if opened is not None and opened.type == kind and (part_id is None or part_id == opened.id):
            if opened.marks == marks and opened.internal is internal:
                return opened
            part_id = opened.id
        if part_id is None:
            self._parts += 1
            # What an earlier attempt began is not gone on with: nobody knows what it was about to say.
            part_id = f"p{self._parts}" if self.attempt == 1 else f"p{self.attempt}.{self._parts}"
        part = self._open_parts[agent] = Part(kind, part_id, marks, internal)
        return part

    def _note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take up what an event says about the state of the job, which changes in the same append."""
        if kind == events.STEP_FINISHED and isinstance(data.get("finish_reason"), str):
            self.finish(finish_reason=data["finish_reason"])
        elif kind == events.APPROVAL_REQUESTED:
            if not self._pending_approvals:
                self._writer.put_status(Status.REQUIRES_ACTION)
            self._pending_approvals.add(data["action_id"])
        elif kind == events.APPROVAL_RESOLVED:
            self._pending_approvals.discard(data["action_id"])
            if not self._pending_approvals:
                self._writer.put_status(Status.RUNNING)


def _captured(kind: str, data: Mapping[str, Any], payload: bytes) -> dict[str, Any] | None:
    """The job's metadata that an event sets, in the same append. Raises InvalidArgument."""
    if kind == events.CREATED:
        known = msgspec.json.decode(payload)  # a copy: the record must not change with the run's own objects
        return Metadata.changes({field: known[field] for field in _CAPTURED if field in known})
    return {"title": data["text"]} if kind == events.TITLE else None


def _closing(stream: AsyncIterator[Event]) -> AbstractAsyncContextManager[Any]:
    """Close a stream on leaving, where it can be closed."""
    return aclosing(stream) if hasattr(stream, "aclose") else nullcontext()  # pyright: ignore[reportArgumentType]
