"""The routes of AG-UI itself: run, connect, stop, and what this server can do."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool import projecting
from unspool.http.auth import Identity
from unspool.http.dialects.ag_ui.conversation import joined
from unspool.http.dialects.ag_ui.messages import to_chat
from unspool.http.dialects.ag_ui.projection import (
    DIALECT,
    VERSION,
    AgUi,
    AgUiOld,
    Opening,
    OpeningOld,
    run_id_of,
)
from unspool.http.dialects.values import Json, as_object
from unspool.http.door import Door, json_response
from unspool.http.problem import answering
from unspool.http.requests import StartRequest
from unspool.http.stream import ProjectedStream
from unspool.jobs import Job

CAPABILITIES: Final[Json] = {
    "identity": {"name": "unspool", "type": "unspool", "version": version("unspool")},
    "transport": {"streaming": True, "resumable": True},
    "humanInTheLoop": {"supported": True, "interrupts": True, "approvals": True},
}


class RunInput(msgspec.Struct, rename="camel"):
    """`RunAgentInput`. Clients before 1.0 send no `protocolVersion`."""

    thread_id: str
    run_id: str | None = None
    protocol_version: str | None = None
    parent_run_id: str | None = None
    messages: list[Json] = []
    tools: list[Any] | None = None
    context: list[Any] | None = None
    state: Any = None
    forwarded_props: Any = None
    resume: list[Json] | None = None

    @property
    def kind(self) -> type[AgUi]:
        """What this client understands."""
        declared = self.protocol_version or ""
        return AgUi if re.fullmatch(r"[1-9]\d*\.\d+", declared) else AgUiOld


class StopBody(msgspec.Struct, rename="camel"):
    """`run_id`: the run that is meant; one that is over is not worth a Stop of what runs now."""

    thread_id: str
    run_id: str | None = None


class Runs:
    """What both sets of routes do."""

    def __init__(self, door: Door) -> None:
        self.door = door

    async def start(self, identity: Identity, body: RunInput, agent: str | None = None) -> Response:
        """Start a run and follow it; come back to it, where it has been started before."""
        asked = {
            "tools": body.tools, "context": body.context, "state": body.state, "forwarded_props": body.forwarded_props,
            "resume": body.resume, "agent": agent,
        }  # fmt: skip
        model = as_object(body.forwarded_props).get("model")
        details = StartRequest(
            body.thread_id, to_chat(body.messages), model if isinstance(model, str) else None, None, None, {}, DIALECT,
            {name: value for name, value in asked.items() if value is not None},
        )  # fmt: skip
        known = {
            "dialect": DIALECT, "run_id": body.run_id, "parent_run_id": body.parent_run_id, "messages": body.messages,
        }  # fmt: skip
        job = await self.door.start(identity, details, request_id=body.run_id or None, request=known)
        return await self.resume(job, body.kind) if job.attached else await self.door.follow(job, body.kind)

    async def resume(self, job: Job, kind: type[AgUi], before: tuple[AgUi, ...] = ()) -> Response:
        """Come back to a run: the messages as they are now, then what follows. `before`: the thread's earlier runs."""
        projection = await self.door.project(job, kind)
        if not projection.started:
            projection = (Opening if kind.modern else OpeningOld).load(projection.dump())
        projected = await projecting.attach_at(self.door.manager.replica, job, projection)
        retold = b"".join(run.retold() for run in before)
        messages = joined(run.messages() for run in (*before, projection)) if before else None
        first = retold + projection.resume(messages)
        return ProjectedStream(projected._replace(first=first), options=self.door.stream_options)

    async def stop(self, identity: Identity, thread_id: str, run_id: str | None) -> Json:
        """Stop the thread's last run, and answer once it is sealed. Raises NotFound, Gone."""
        job = await self.door.job(identity, thread_id)
        named = run_id_of(job)
        stopped = run_id in (None, named) and not job.settled
        if stopped:
            stopped = (await self.door.stop(identity, thread_id, job.generation)).ok
            job = await self.door.job(identity, thread_id, job.generation)
        return {"stopped": stopped, "threadId": thread_id, "runId": named, "status": job.status}


def routes(runs: Runs) -> list[BaseRoute]:
    """Under `/ag-ui`."""
    served = _Served(runs)
    return [
        Route("/ag-ui", answering(served.run), methods=["POST"], name="unspool.ag_ui.run"),
        Route("/ag-ui/connect", answering(served.connect), methods=["POST"], name="unspool.ag_ui.connect"),
        Route("/ag-ui/stop", answering(served.stop), methods=["POST"], name="unspool.ag_ui.stop"),
        Route("/ag-ui/info", answering(served.info), methods=["GET"], name="unspool.ag_ui.info"),
    ]


class _Served:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._door = runs.door

    async def run(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        return await self._runs.start(identity, await self._door.body(request, RunInput))

    async def connect(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: RunInput = await self._door.body(request, RunInput)
        return await self._runs.resume(await self._door.job(identity, body.thread_id), body.kind)

    async def stop(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: StopBody = await self._door.body(request, StopBody)
        return json_response(await self._runs.stop(identity, body.thread_id, body.run_id))

    async def info(self, request: Request) -> Response:
        await self._door.identify(request)
        return json_response({"protocolVersion": VERSION, "capabilities": CAPABILITIES})
