"""The routes of threads: make, read, change, search and delete them, and their states."""

from __future__ import annotations

import uuid
from contextlib import aclosing, suppress
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from unspool.errors import Fenced, GenerationConflict, InvalidArgument, NotFound
from unspool.http.auth import Identity
from unspool.http.dialects.langgraph.messages import merged, received
from unspool.http.dialects.langgraph.runs import MOST, Body, number_in, refuse_select
from unspool.http.dialects.langgraph.threads import (
    Checkpoint,
    Known,
    Threads,
    known,
    matches,
    now,
    thread_status,
)
from unspool.http.dialects.values import Json, as_object
from unspool.http.door import Door, json_response
from unspool.jobs import Job, Whole

_SEARCHED: Final = 1000
"""Generations of a user that a search looks at."""


Count = Annotated[int, msgspec.Meta(ge=0, le=MOST)]


class ThreadBody(Body, kw_only=True):
    unserved = ("supersteps", "ttl")
    supersteps: Any = None
    ttl: Any = None
    thread_id: str | None = None
    metadata: Json | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None


class MetadataBody(Body, kw_only=True):
    unserved = ("ttl",)
    ttl: Any = None
    metadata: Json | None = None


class StateBody(Body, kw_only=True):
    unserved = ("as_node", "select")
    as_node: Any = None
    select: Any = None
    values: Any = None
    checkpoint: Json | None = None
    checkpoint_id: str | None = None


class HistoryBody(Body, kw_only=True):
    unserved = ("checkpoint", "select")
    checkpoint: Any = None
    select: Any = None
    limit: Count | None = None
    before: Json | str | None = None
    metadata: Json | None = None


class SearchBody(Body, kw_only=True):
    unserved = ("values", "select", "extract")
    values: Any = None
    select: Any = None
    extract: Any = None
    metadata: Json | None = None
    ids: list[str] | None = None
    status: Literal["idle", "busy", "interrupted", "error"] | None = None
    limit: Count | None = None
    offset: Count | None = None
    sort_by: Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"] | None = None
    sort_order: Literal["asc", "desc"] | None = None


class ThreadRoutes:
    """Handlers."""

    def __init__(self, door: Door, threads: Threads) -> None:
        self._door = door
        self._threads = threads

    async def create(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: ThreadBody = await self._door.body(request, ThreadBody, ThreadBody())
        thread_id = body.thread_id or str(uuid.uuid4())
        while True:
            head = await self._threads.head(identity, thread_id)
            if head.job is not None:
                if body.if_exists != "do_nothing":
                    raise GenerationConflict(f"thread {thread_id!r} exists", generation=head.used)
                return json_response(await self._threads.described(head.job))
            about = Known(thread=_given(body.metadata), since=now())
            try:
                job = await self._threads.set_state(identity, thread_id, [], about, head.used)
            except GenerationConflict:
                continue  # somebody else made it just now
            return json_response(await self._threads.described(job))

    async def get(self, request: Request) -> Response:
        return json_response(await self._threads.described(await self._found(request)))

    async def patch(self, request: Request) -> Response:
        """Change metadata: of what runs in its own record, else in a generation that ends at once."""
        identity = await self._door.identify(request)
        body: MetadataBody = await self._door.body(request, MetadataBody)
        while True:
            job = await self._threads.found(identity, request.path_params["thread_id"])
            about, given = known(job), _given(body.metadata)
            if not job.settled:
                thread = {
                    name: Whole(cast("Json", value)) if isinstance(value, dict) else value
                    for name, value in given.items()
                }
                store = self._door.manager.store
                try:
                    job = await store.update(job.key, job.lease.epoch, Known.change(thread=thread))
                except Fenced:
                    continue  # it ended just now
                break
            about.thread = {**about.thread, **given}
            about.parent = Checkpoint.last(job).id
            messages = (await self._threads.projected(job)).state
            try:
                job = await self._threads.set_state(identity, job.stream_id, messages, about, job.generation)
            except GenerationConflict:
                continue
            break
        if "return=minimal" in request.headers.get("prefer", ""):
            return Response(status_code=204)
        return json_response(await self._threads.described(job))

    async def delete(self, request: Request) -> Response:
        """Delete a thread with all its generations; what runs is stopped first."""
        identity = await self._door.identify(request)
        job = await self._threads.found(identity, request.path_params["thread_id"])
        if not job.settled:
            await self._door.stop(identity, job.stream_id, job.generation)
        async with aclosing(self._threads.kept(identity, job.stream_id, job.generation)) as jobs:
            async for kept in jobs:
                await self._door.manager.delete(kept.stream_id, generation=kept.generation, **identity.owner())
        return Response(status_code=204)

    async def search(self, request: Request) -> Response:
        body, found = await self._matching(request)
        offset, limit = body.offset or 0, 10 if body.limit is None else body.limit
        described: list[Json] = []
        for job in found[offset : offset + limit]:
            with suppress(NotFound):  # it was forgotten just now
                described.append(await self._threads.described(job))
        return json_response(described)

    async def count(self, request: Request) -> Response:
        return json_response(len((await self._matching(request))[1]))

    async def _matching(self, request: Request) -> tuple[SearchBody, list[Job]]:
        """The caller's threads that are asked for, each by its last generation; those that changed last first."""
        identity = await self._door.identify(request)
        body: SearchBody = await self._door.body(request, SearchBody, SearchBody())
        latest: dict[str, Job] = {}
        for job in await self._door.manager.jobs(limit=_SEARCHED, **identity.owner()):
            if job.stream_id not in latest or latest[job.stream_id].generation < job.generation:
                latest[job.stream_id] = job
        found = [
            job
            for job in latest.values()
            if (body.ids is None or job.stream_id in body.ids)
            and (body.status is None or thread_status(job) == body.status)
            and matches(known(job).thread, _given(body.metadata))
        ]

        def order(job: Job) -> Any:
            match body.sort_by:
                case "thread_id":
                    return job.stream_id
                case "status":
                    return thread_status(job)
                case "created_at":
                    return known(job).since or job.created_at
                case _:
                    return job.settled_at or job.active_at

        return body, sorted(found, key=order, reverse=body.sort_order != "asc")

    # states

    async def state(self, request: Request) -> Response:
        """The thread as it stands, or at a checkpoint."""
        identity = await self._door.identify(request)
        refuse_select(request.query_params)
        thread_id = request.path_params["thread_id"]
        job = await self._threads.found(identity, thread_id)
        given = request.path_params.get("checkpoint_id")
        if given is None:
            return json_response((await self._threads.states(job))[0])
        return json_response(await self._at(identity, thread_id, given))

    async def state_at(self, request: Request) -> Response:
        """The same, with the checkpoint in the body."""
        identity = await self._door.identify(request)
        body: StateBody = await self._door.body(request, StateBody)
        thread_id = request.path_params["thread_id"]
        asked = (body.checkpoint or {}).get("checkpoint_id") or body.checkpoint_id
        if asked is None:
            job = await self._threads.found(identity, thread_id)
            return json_response((await self._threads.states(job))[0])
        return json_response(await self._at(identity, thread_id, str(asked)))

    async def _at(self, identity: Identity, thread_id: str, given: str) -> Json:
        at = await self._threads.checkpoint(identity, thread_id, given)
        wanted = at.described()
        for state in await self._threads.states(at.job):
            if state["checkpoint"] == wanted:
                return state
        raise NotFound

    async def update_state(self, request: Request) -> Response:
        """Change the messages without a run."""
        identity = await self._door.identify(request)
        body: StateBody = await self._door.body(request, StateBody)
        job = await self._threads.found(identity, request.path_params["thread_id"])
        if not job.settled:
            raise GenerationConflict("the thread is busy", generation=job.generation)
        about = known(job)
        asked = (body.checkpoint or {}).get("checkpoint_id") or body.checkpoint_id
        base = Checkpoint.last(job)
        if asked is not None:
            base = await self._threads.checkpoint(identity, job.stream_id, str(asked))
        about.parent = base.id
        values: Any = body.values
        if isinstance(values, dict):
            if other := [name for name in cast("Json", values) if name != "messages"]:
                raise InvalidArgument(f"values may hold messages alone, not {other[0][:40]!r}", field="values")
            values = cast("Json", values).get("messages")
        new = received(values, lambda: str(uuid.uuid4()))
        before = await self._threads.messages_at(base)
        made = await self._threads.set_state(identity, job.stream_id, merged(before, new), about, job.generation)
        return json_response({"checkpoint": Checkpoint.last(made).described()})

    async def history(self, request: Request) -> Response:
        """States, newest first: two for each run, one for each change without a run."""
        identity = await self._door.identify(request)
        body = HistoryBody()
        if request.method == "POST":
            body = await self._door.body(request, HistoryBody, body)
        job = await self._threads.found(identity, request.path_params["thread_id"])
        limit = number_in(request.query_params, "limit", 10) if body.limit is None else body.limit
        asked = _checkpoint_id(body.before or request.query_params.get("before"))
        before = None if asked is None else await self._threads.checkpoint(identity, job.stream_id, asked)
        last = job.generation if before is None else before.job.generation
        found: list[Json] = []
        async with aclosing(self._threads.kept(identity, job.stream_id, last)) as jobs:
            async for kept in jobs:
                for state in await self._threads.states(kept):
                    number = state["metadata"]["step"]
                    wanted = matches(state["metadata"], body.metadata or {})
                    if wanted and (before is None or number < before.number):
                        found.append(state)
                if len(found) >= limit:
                    break
        return json_response(found[:limit])

    async def _found(self, request: Request) -> Job:
        identity = await self._door.identify(request)
        return await self._threads.found(identity, request.path_params["thread_id"])


def _checkpoint_id(given: Json | str | None) -> str | None:
    """The checkpoint before which a history is asked for: its id, or an object or configuration that holds it."""
    if given is None:
        return None
    if isinstance(given, dict):
        given = (as_object(given.get("configurable")) or given).get("checkpoint_id")
    if not isinstance(given, str):
        raise InvalidArgument("before must name a checkpoint_id", field="before")
    return given


def _given(metadata: Json | None) -> Json:
    return {name: value for name, value in (metadata or {}).items() if value is not None}
