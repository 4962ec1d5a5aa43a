"""Threads: streams as LangGraph sees them. Their numbers, what is kept of them, and the state after each generation.

Every generation's log begins with all messages that the thread had when it began, so the state of a thread is that of
its last generation, whatever became of those before it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from unspool.errors import Gone, NotFound
from unspool.http.auth import Identity
from unspool.http.dialects.langgraph.projection import AGENT, NAME, LangGraphRun, failure, identifier, number_of, run_id
from unspool.http.dialects.values import Json
from unspool.http.door import Door
from unspool.jobs import Job, Status
from unspool.projection import REQUEST

_MISSES: Final = 32
"""Generations in a row that may have been deleted before what came earlier counts as gone."""

RUN, STATE = "run", "state"


class Known(msgspec.Struct, kw_only=True):
    """What a job's metadata says of LangGraph's own. `kind`: a run, or a state that was set without one. `thread`: the
    thread's metadata, and `since` when it was made. `parent`: the id of the checkpoint that the generation began at.
    `follower`: the last client to come whose leaving stops the run."""

    kind: str = RUN
    thread: Json = {}
    since: Annotated[float, msgspec.Meta(ge=0, lt=1e11)] = 0.0
    parent: str | None = None
    assistant: str = AGENT
    metadata: Json = {}
    modes: list[str] = []
    strategy: str = "enqueue"
    follower: str | None = None

    def fields(self) -> Json:
        """As metadata of a job."""
        return {"extra": {NAME: msgspec.to_builtins(self)}}

    @staticmethod
    def change(**fields: Any) -> Json:
        """A change of these fields alone, as metadata of a job: others may be changed on any replica meanwhile."""
        return {"extra": {NAME: fields}}


def known(job: Job) -> Known:
    """What the job says; for a generation of another dialect, as good as nothing."""
    said = (job.metadata.extra or {}).get(NAME)
    try:
        return msgspec.convert(said or {}, Known)
    except msgspec.ValidationError:
        return Known()


class Head(NamedTuple):
    """The last generation of a thread that is kept, and the last number that was used."""

    job: Job | None
    used: int


class Checkpoint(NamedTuple):
    """A state of a thread. `number`: twice the generation for the state that it began with, one more for its end."""

    job: Job
    number: int

    @classmethod
    def last(cls, job: Job) -> Checkpoint:
        """The end of a generation, or how far it is."""
        return cls(job, 2 * job.generation + 1)

    @property
    def id(self) -> str:
        return identifier("checkpoint", self.job, self.number)

    def described(self) -> Json:
        return _checkpoint(self.job, self.id)


def _checkpoint(job: Job, checkpoint_id: str) -> Json:
    return {"thread_id": job.stream_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id, "checkpoint_map": None}


class Threads:
    """What the routes of threads and of runs ask of the store."""

    def __init__(self, door: Door) -> None:
        self.door = door

    async def head(self, identity: Identity, thread_id: str) -> Head:
        """The thread as it stands; no job where it is not there, or is another's."""
        try:
            job = await self.door.job(identity, thread_id)
        except NotFound:
            return Head(None, 0)
        except Gone as gone:
            used = int(gone.details.get("generation") or 0)
            async with aclosing(self.kept(identity, thread_id, used)) as jobs:
                return Head(await anext(jobs, None), used)
        return Head(job, job.generation)

    async def found(self, identity: Identity, thread_id: str) -> Job:
        """The thread's last generation. Raises NotFound."""
        job = (await self.head(identity, thread_id)).job
        if job is None:
            raise NotFound(f"there is no thread {thread_id!r}")
        return job

    async def kept(self, identity: Identity, thread_id: str, last: int) -> AsyncGenerator[Job, None]:
        """The thread's generations from this number down."""
        misses = 0
        for number in range(last, 0, -1):
            try:
                job = await self.door.job(identity, thread_id, number)
            except (NotFound, Gone):
                misses += 1
                if misses > _MISSES:
                    return
                continue
            misses = 0
            yield job

    async def run(self, identity: Identity, thread_id: str, given: str) -> Job:
        """The run with this id. Raises NotFound, also for an id of another log."""
        return (await self._named("run", identity, thread_id, given))[0]

    async def checkpoint(self, identity: Identity, thread_id: str, given: str) -> Checkpoint:
        """The checkpoint with this id. Raises NotFound, also for an id of another log."""
        return Checkpoint(*await self._named("checkpoint", identity, thread_id, given))

    async def _named(self, kind: str, identity: Identity, thread_id: str, given: str) -> tuple[Job, int]:
        number = number_of(given)
        try:
            job = await self.door.job(identity, thread_id, number if kind == "run" else number // 2)
        except Gone as gone:
            raise NotFound(f"{kind} {given} is no longer kept") from gone
        if identifier(kind, job, number) != given.lower():
            raise NotFound
        return job, number

    async def projected(self, job: Job) -> LangGraphRun:
        """Where a generation stands. Raises NotFound where its log is no longer there."""
        try:
            return await self.door.project(job, LangGraphRun)
        except Gone as gone:
            raise NotFound(gone.message) from gone

    async def settled(self, identity: Identity, job: Job) -> Job:
        """Wait for a generation's end."""
        if not job.settled:
            following = self.door.manager.follow(
                job.stream_id, generation=job.generation, after=job.last_offset, **identity.owner()
            )
            async with aclosing(following) as records:
                async for _ in records:
                    pass
        return await self.door.job(identity, job.stream_id, job.generation)

    async def set_state(
        self, identity: Identity, thread_id: str, messages: Sequence[Json], about: Known, expected: int
    ) -> Job:
        """A generation that ends at once, and leaves the thread with these messages and this metadata."""
        about = msgspec.structs.replace(about, kind=STATE, follower=None)
        async with self.door.manager.open(
            thread_id, expect_generation=expected, metadata=about.fields(), **identity.owner()
        ) as generation:
            await generation.emit(REQUEST, {NAME: {"messages": list(messages)}}, internal=True)
        return await self.door.job(identity, thread_id, generation.generation)

    async def messages_at(self, at: Checkpoint) -> list[Json]:
        """The messages at a checkpoint. Raises NotFound."""
        run = await self.projected(at.job)
        return run.state if at.number % 2 else run.messages[: run.inputs]

    async def states(self, job: Job) -> list[Json]:
        """The states that a generation left, newest first: at its end, and (of a run) where it began."""
        run, about = await self.projected(job), known(job)
        began, ended = Checkpoint(job, 2 * job.generation), Checkpoint.last(job)
        task: Json = {"id": run_id(job), "name": AGENT, "error": None, "interrupts": [], "checkpoint": None}
        if run.error is not None:
            task["error"] = msgspec.json.encode(run.error).decode()
        open_ = not job.settled or run.error is not None
        end = self._state(ended, run.state, began.id if about.kind == RUN else about.parent, [task] if open_ else [])
        if about.kind != RUN:
            return [end]
        return [end, self._state(began, run.messages[: run.inputs], about.parent, [task])]

    @staticmethod
    def _state(at: Checkpoint, messages: list[Json], parent: str | None, tasks: list[Json]) -> Json:
        job, number = at
        about = known(job)
        source = "update" if about.kind == STATE else "loop" if number % 2 else "input"
        made_at = job.created_at if number % 2 == 0 else job.settled_at or job.active_at
        return {
            "values": {"messages": messages},
            "next": [task["name"] for task in tasks],
            "tasks": tasks,
            "interrupts": [],
            "metadata": {**about.metadata, "source": source, "step": number, "run_id": run_id(job)},
            "created_at": moment(made_at),
            "checkpoint": at.described(),
            "parent_checkpoint": None if parent is None else _checkpoint(job, parent),
        }

    async def described(self, job: Job) -> Json:
        """A thread, by its last generation."""
        about = known(job)
        return {
            "thread_id": job.stream_id,
            "created_at": moment(about.since or job.created_at),
            "updated_at": moment(job.settled_at or job.active_at),
            "metadata": about.thread,
            "status": thread_status(job),
            "config": {},
            "values": {"messages": (await self.projected(job)).state},
            "interrupts": {},
        }


def thread_status(job: Job) -> str:
    if not job.settled:
        return "busy"
    return "error" if job.status is Status.ERROR else "idle"


def run_status(job: Job) -> str:
    """In LangGraph's words."""
    if not job.settled:
        return "running"
    if job.status is Status.COMPLETE:
        return "success"
    if job.status is Status.ERROR:
        return "error"
    ended_by_system = job.terminal is not None and failure(job.terminal.type, job.terminal.data) is not None
    return "timeout" if ended_by_system else "interrupted"


def described_run(job: Job) -> Json:
    about = known(job)
    return {
        "run_id": run_id(job),
        "thread_id": job.stream_id,
        "assistant_id": about.assistant,
        "created_at": moment(job.created_at),
        "updated_at": moment(job.settled_at or job.active_at),
        "status": run_status(job),
        "metadata": about.metadata,
        "kwargs": {},
        "multitask_strategy": about.strategy,
    }


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def now() -> float:
    return time.time()


def matches(metadata: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(metadata.get(name) == value for name, value in wanted.items())
