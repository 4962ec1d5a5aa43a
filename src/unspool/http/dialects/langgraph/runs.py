"""The routes of runs: start, follow, wait, stop, list."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote, urlencode

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from unspool import projecting
from unspool.errors import (
    BadRequest,
    Fault,
    GenerationConflict,
    Gone,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
    UnspoolError,
)
from unspool.http.auth import Identity
from unspool.http.dialects.langgraph.messages import merged, received, to_chat
from unspool.http.dialects.langgraph.projection import (
    AGENT,
    CUSTOM,
    NAME,
    TUPLES,
    UPDATES,
    VALUES,
    WHOLE,
    kind_of,
    run_id,
)
from unspool.http.dialects.langgraph.responses import Leaving, Waiting
from unspool.http.dialects.langgraph.threads import (
    RUN,
    Checkpoint,
    Head,
    Known,
    Threads,
    described_run,
    known,
    now,
    run_status,
)
from unspool.http.dialects.values import Json, as_object
from unspool.http.door import Door, json_response
from unspool.http.requests import StartRequest, whole
from unspool.http.stream import ProjectedStream
from unspool.jobs import Job, check_id
from unspool.viewer import End, Viewer

_log = logging.getLogger("unspool.http")

_STATUSES: Final = ("pending", "running", "error", "success", "timeout", "interrupted")
MOST: Final = 1000
"""Threads, runs or states that a list has at most, as in LangGraph's own server."""
_ALL: Final = (VALUES, TUPLES, UPDATES, CUSTOM)
"""What a client gets of a run that was started without modes."""
_MODES: Final = frozenset({*_ALL, WHOLE})


class Busy(UnspoolError):
    """The thread is busy with another run, and this one may not take its place."""

    code, status = "thread_busy", 422
    fault: ClassVar[Fault] = "caller"


class Body(msgspec.Struct, kw_only=True):
    """A body whose `unserved` fields may be there only with values that ask for nothing: null, false, 0, or empty."""

    unserved: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        for name in self.unserved:
            if getattr(self, name):
                raise ValueError(f"{name} is not served here; leave it out")


class RunBody(Body, kw_only=True):
    """What the SDKs post. Every run can be resumed and is stored as it is shown, so `stream_resumable`, `durability`
    and `checkpoint_during` hold anyway. There are no subgraphs. `strict_resume` is for servers that announce it."""

    unserved = ("interrupt_before", "interrupt_after", "webhook", "after_seconds", "feedback_keys")
    interrupt_before: Any = None
    interrupt_after: Any = None
    webhook: Any = None
    after_seconds: Any = None
    feedback_keys: Any = None
    on_completion: Literal["keep"] | None = None
    langsmith_tracer: Json | None = None
    assistant_id: str = AGENT
    input: Any = None
    command: Json | None = None
    metadata: Json | None = None
    config: Json | None = None
    context: Json | None = None
    checkpoint: Json | None = None
    checkpoint_id: str | None = None
    stream_mode: str | list[str] | None = None
    multitask_strategy: Literal["reject", "interrupt", "rollback", "enqueue"] | None = None
    on_disconnect: Literal["cancel", "continue"] | None = None
    if_not_exists: Literal["create", "reject"] | None = None


class CancelBody(msgspec.Struct):
    """The runs to stop: those of a thread by their ids, or all of the caller's with this status; never both."""

    thread_id: str | None = None
    run_ids: list[str] = []
    status: Literal["pending", "running", "all"] | None = None


class Runs:
    """Handlers, and what they share."""

    def __init__(self, door: Door, threads: Threads) -> None:
        self._door = door
        self._threads = threads
        self._leaving = Leaving(door)

    # starting

    async def stream(self, request: Request) -> Response:
        """Start, and follow."""
        _, job, body = await self._start(request, [VALUES])
        return await self._follow(job, [], 0, body.on_disconnect == "cancel", started=not job.attached)

    async def create(self, request: Request) -> Response:
        """Start, and say what it is."""
        _, job, _ = await self._start(request, [])
        return json_response(described_run(job), headers={"content-location": _path(job)})

    async def wait(self, request: Request) -> Response:
        """Start, and wait for the end."""
        identity, job, body = await self._start(request, [])
        return await self._wait(identity, job, body.on_disconnect == "cancel", started=not job.attached)

    async def _start(self, request: Request, modes: list[str]) -> tuple[Identity, Job, RunBody]:
        identity = await self._door.identify(request)
        body: RunBody = await self._door.body(request, RunBody)
        key = request.headers.get("idempotency-key")
        if key is not None:
            check_id("Idempotency-Key", key)
        thread_id: str | None = request.path_params.get("thread_id")
        if thread_id is None:
            thread_id, body.if_not_exists = _own_thread(identity, key), "create"
        asked = _modes([body.stream_mode] if isinstance(body.stream_mode, str) else body.stream_mode or modes)
        return identity, await self._begin(identity, thread_id, body, asked, key), body

    async def _begin(self, identity: Identity, thread_id: str, body: RunBody, modes: list[str], key: str | None) -> Job:
        """Start as soon as the thread is free, or in the place of the run that is rolled back. Looks at the thread
        again where another request came in between."""
        while True:
            head = await self._threads.head(identity, thread_id)
            if head.job is None and body.if_not_exists != "create":
                raise NotFound(f"there is no thread {thread_id!r}; create it, or start with if_not_exists: create")
            if head.job is not None and key is not None:
                attached = await self._door.attached(identity, thread_id, key)
                if attached is not None:
                    return attached
            rolled_back = _rolled_back(head, body)
            if head.job is not None and not head.job.settled and rolled_back is None:
                await self._make_way(identity, head, body)
                continue
            details, messages, about = await self._prepared(identity, thread_id, body, head)
            about.modes = modes
            try:
                job = await self._door.start(
                    identity, details, request_id=key, expect_generation=head.used, metadata=about.fields(),
                    request={NAME: {"messages": messages}},
                )  # fmt: skip
            except GenerationConflict:
                continue
            if rolled_back is not None and not job.attached:
                await self._forget(identity, rolled_back)
            return job

    async def _make_way(self, identity: Identity, head: Head, body: RunBody) -> None:
        """Wait for the end of the thread's run, or stop it, as the strategy says. Raises Busy."""
        job, strategy = head.job, body.multitask_strategy or "enqueue"
        assert job is not None
        if strategy == "reject" and known(job).kind == RUN:
            raise Busy(f"thread {job.stream_id!r} is busy with run {run_id(job)}")
        if strategy == "interrupt" and known(job).kind == RUN:  # nothing is stopped for a start that is refused
            await self._prepared(identity, job.stream_id, body, head)
            await self._door.check(identity, job.stream_id)
            await self._door.stop(identity, job.stream_id, job.generation)
            return
        with suppress(NotFound, Gone):  # it was rolled back
            await self._threads.settled(identity, job)

    async def _stop(self, identity: Identity, job: Job, action: str) -> None:
        await self._door.stop(identity, job.stream_id, job.generation)
        if action == "rollback":
            await self._delete(identity, job)

    async def _delete(self, identity: Identity, job: Job) -> None:
        await self._door.manager.delete(job.stream_id, generation=job.generation, **identity.owner())

    async def _forget(self, identity: Identity, replaced: Job) -> None:
        """Delete a run that was rolled back. The new run has started, so a store that is away is no refusal."""
        try:
            await self._delete(identity, replaced)
        except StoreUnavailable as error:
            _log.warning("%s was rolled back, and could not be deleted: %s", replaced.key, error)

    async def _prepared(
        self, identity: Identity, thread_id: str, body: RunBody, head: Head
    ) -> tuple[StartRequest, list[Json], Known]:
        """The run's request, the thread's messages with the new ones, and the record's metadata. Changes nothing."""
        given, rest = _input(body)
        last, before = Known() if head.job is None else known(head.job), head.job
        rolled_back = _rolled_back(head, body)
        if rolled_back is not None:
            async with aclosing(self._threads.kept(identity, thread_id, rolled_back.generation - 1)) as jobs:
                before = await anext(jobs, None)
        asked = body.checkpoint_id or (body.checkpoint or {}).get("checkpoint_id")
        base = None if before is None else Checkpoint.last(before)
        if asked is not None:
            base = await self._threads.checkpoint(identity, thread_id, str(asked))
            if rolled_back is not None and base.job.generation == rolled_back.generation:
                raise NotFound(f"checkpoint {asked} is of the run that is to be rolled back")
        kept = [] if base is None else await self._threads.messages_at(base)
        messages = merged(kept, received(given, lambda: str(uuid.uuid4())))
        if not messages:
            raise InvalidArgument("input.messages must hold at least one message", field="input.messages")
        about = Known(
            thread=last.thread, since=last.since or now(), parent=base and base.id, assistant=body.assistant_id,
            metadata=body.metadata or {}, strategy=body.multitask_strategy or "enqueue",
            follower=self._leaving.name() if body.on_disconnect == "cancel" else None,
        )  # fmt: skip
        parameters = {
            "assistant_id": body.assistant_id, "config": body.config, "context": body.context, "input": rest,
            "langsmith_tracer": body.langsmith_tracer,
        }  # fmt: skip
        chosen = _model(body)
        details = StartRequest(
            thread_id, to_chat(messages), chosen, None, None, body.metadata or {}, NAME,
            {name: value for name, value in parameters.items() if value},
        )  # fmt: skip
        return details, messages, about

    # following

    async def join_stream(self, request: Request) -> Response:
        """Follow a run, from after `Last-Event-ID`; without one, from its beginning."""
        identity = await self._door.identify(request)
        job = await self._run(identity, request)
        return await self._follow(job, asked_modes(request.query_params), position_of(request), self._cancels(request))

    async def _follow(
        self, job: Job, modes: list[str], position: int, cancels: bool, *, started: bool = False
    ) -> Response:
        known_modes = known(job).modes
        kind = kind_of(modes or known_modes or _ALL)
        projected = await projecting.attach(self._door.manager.replica, job, kind, position)
        left = await self._came(job, projected.viewer, started) if cancels else None
        query = [("stream_mode", mode) for mode in modes if sorted(modes) != sorted(known_modes)]
        if cancels:
            query.append(("cancel_on_disconnect", "1"))
        # A client that is cut off comes back here, and says no more than the last id that it has.
        location = f"{_path(job)}/stream" + (f"?{urlencode(query)}" if query else "")

        def over() -> None:
            if left is not None and projected.viewer.end is End.CLOSED:
                left()

        return ProjectedStream(
            projected, headers={"location": location, "content-location": _path(job)},
            options=self._door.stream_options, over=over,
        )  # fmt: skip

    async def join(self, request: Request) -> Response:
        """Wait for a run's end."""
        identity = await self._door.identify(request)
        job = await self._run(identity, request)
        return await self._wait(identity, job, self._cancels(request))

    def _cancels(self, request: Request) -> bool:
        """Whether the client's leaving stops the run: then a GET changes something, which a foreign page may not."""
        cancels = _flag(request.query_params, "cancel_on_disconnect") and request.method != "HEAD"
        if cancels:
            self._door.refuse_foreign(request)
        return cancels

    async def _wait(self, identity: Identity, job: Job, cancels: bool, *, started: bool = False) -> Response:
        viewer = await self._door.manager.view(
            job.stream_id, generation=job.generation, after=job.last_offset, **identity.owner()
        )

        async def answer() -> Json:
            run = await self._threads.projected(await self._door.job(identity, job.stream_id, job.generation))
            return {"__error__": run.error} if run.error is not None else {"messages": run.state}

        left = await self._came(job, viewer, started) if cancels else None
        headers = {"location": f"{_path(job)}/join", "content-location": _path(job)}
        return Waiting(viewer, answer, left, headers=headers, heartbeat=self._door.stream_options.heartbeat)

    async def _came(self, job: Job, viewer: Viewer, started: bool) -> Callable[[], None]:
        """Say in the job's record that this client's leaving counts, which the record of a run that it has started says
        already; the call for when it has left. Closes the viewer of a client that is refused."""
        try:
            follower = (known(job).follower if started else None) or await self._leaving.came(job)
        except BaseException:
            viewer.close()
            raise
        return lambda: self._leaving.left(job, follower)

    # asking and stopping

    async def get(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        return json_response(described_run(await self._run(identity, request)))

    async def list(self, request: Request) -> Response:
        """A thread's runs, newest first."""
        identity = await self._door.identify(request)
        query = request.query_params
        refuse_select(query)
        head = await self._threads.found(identity, request.path_params["thread_id"])
        limit, offset, status = number_in(query, "limit", 10), number_in(query, "offset", 0), query.get("status")
        if status not in (None, *_STATUSES):
            raise InvalidArgument(f"status must be one of {', '.join(_STATUSES)}", field="status")
        found: list[Json] = []
        async with aclosing(self._threads.kept(identity, head.stream_id, head.generation)) as jobs:
            async for job in jobs:
                if known(job).kind == RUN and status in (None, run_status(job)):
                    found.append(described_run(job))
                if len(found) >= offset + limit:
                    break
        return json_response(found[offset : offset + limit])

    async def cancel(self, request: Request) -> Response:
        """Stop a run; answers once it is sealed, whatever `wait` says. A run that has ended stays as it is."""
        identity, action = await self._door.identify(request), _action(request.query_params)
        await self._stop(identity, await self._run(identity, request), action)
        return Response(status_code=204 if _flag(request.query_params, "wait") else 202)

    async def cancel_many(self, request: Request) -> Response:
        """Stop several; answers once all are sealed. None is ever pending: a request waits until its run may begin."""
        identity, action = await self._door.identify(request), _action(request.query_params)
        body: CancelBody = await self._door.body(request, CancelBody)
        if body.status is not None and (body.thread_id is not None or body.run_ids):
            raise InvalidArgument("status stands alone: it means all of your runs, on every thread", field="status")
        if body.thread_id is not None and body.run_ids:
            jobs = [await self._threads.run(identity, body.thread_id, given) for given in dict.fromkeys(body.run_ids)]
        elif body.status is not None:
            active = await self._door.manager.active(**identity.owner())
            jobs = [job for job in active if known(job).kind == RUN and body.status != "pending"]
        else:
            raise InvalidArgument("either thread_id and run_ids are needed, or status", field="status")
        await asyncio.gather(*(self._stop(identity, job, action) for job in jobs))
        return Response(status_code=204)

    async def delete(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        job = await self._run(identity, request)
        if not job.settled:
            raise GenerationConflict("the run is not over: cancel it first", generation=job.generation)
        await self._delete(identity, job)
        return Response(status_code=204)

    async def _run(self, identity: Identity, request: Request) -> Job:
        return await self._threads.run(identity, request.path_params["thread_id"], request.path_params["run_id"])


def _rolled_back(head: Head, body: RunBody) -> Job | None:
    """The thread's active run, where the new one takes its place and leaves nothing of it."""
    job = head.job
    if job is None or job.settled or known(job).kind != RUN or body.multitask_strategy != "rollback":
        return None
    return job


def _path(job: Job) -> str:
    """Where a run is, from the address that the client was given on."""
    return f"/threads/{quote(job.stream_id, safe='')}/runs/{run_id(job)}"


def _own_thread(identity: Identity, key: str | None) -> str:
    """The id of a thread for one run; the same for what somebody sends twice under one key."""
    if key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, repr((identity.tenant, identity.user, key))))


def _input(body: RunBody) -> tuple[object, Json | None]:
    """The messages that came, and what came beside them. Raises InvalidArgument for a command that is not served."""
    given: Any = body.input
    if body.command is not None:
        if set(body.command) - {"update"} or given is not None:
            raise InvalidArgument(
                "command may hold an update alone: runs wait for approvals, and do not end at them", field="command"
            )
        given = body.command["update"]
    if not isinstance(given, dict):
        return given, None
    fields = {**as_object(given)}  # pyright: ignore[reportUnknownArgumentType]
    return fields.pop("messages", None), fields or None


def _model(body: RunBody) -> str | None:
    configurable = as_object((body.config or {}).get("configurable"))
    model = (body.context or {}).get("model") or configurable.get("model")
    return model if isinstance(model, str) else None


def _modes(given: Sequence[object]) -> list[str]:
    """Stream modes, each once. Raises InvalidArgument for one that has no frames here."""
    for mode in given:
        if mode not in _MODES:
            raise InvalidArgument(f"stream_mode {str(mode)[:40]!r} is not served", field="stream_mode")
    return list(dict.fromkeys(str(mode) for mode in given))


def asked_modes(query: QueryParams) -> list[str]:
    """Those of a query: the name repeated, commas between them, or a JSON array."""
    found: list[object] = []
    for value in query.getlist("stream_mode"):
        if value.startswith("["):
            try:
                found += msgspec.json.decode(value, type=list[str])
            except msgspec.DecodeError as error:
                raise InvalidArgument(f"stream_mode is not a list of names: {error}", field="stream_mode") from error
        else:
            found += [name for name in value.split(",") if name]
    return _modes(found)


def position_of(request: Request) -> int:
    """The number of the first frame that the client does not have. Raises BadRequest."""
    given = request.headers.get("last-event-id", "")
    if given in ("", "-1"):
        return 0
    return whole("Last-Event-ID", given, refusal=BadRequest) + 1


def refuse_select(query: QueryParams) -> None:
    """Answers are whole: raises InvalidArgument for a query that selects fields."""
    if "select" in query:
        raise InvalidArgument("select is not served here; leave it out", field="select")


def number_in(query: QueryParams, name: str, default: int) -> int:
    """A count in a query. Raises InvalidArgument."""
    return whole(name, query.get(name, str(default)), most=MOST)


def _action(query: QueryParams) -> str:
    """What becomes of a run that is stopped."""
    action = query.get("action", "interrupt")
    if action not in ("interrupt", "rollback"):
        raise InvalidArgument(f"action must be interrupt or rollback, not {action[:40]!r}", field="action")
    return action


def _flag(query: QueryParams, name: str) -> bool:
    value = query.get(name, "0").lower()
    if value not in ("0", "1", "true", "false"):
        raise InvalidArgument(f"{name} must be 1 or 0, not {value[:40]!r}", field=name)
    return value in ("1", "true")
