"""The routes of CopilotKit's runtime, as `@copilotkit/core` calls them: one by one, or all through a single one."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool.errors import BadRequest, Gone, InvalidArgument, NotFound
from unspool.http.auth import Identity
from unspool.http.dialects.ag_ui.projection import AgUi
from unspool.http.dialects.ag_ui.routes import CAPABILITIES, RunInput, Runs
from unspool.http.dialects.values import Json
from unspool.http.door import json_response
from unspool.http.problem import answering
from unspool.jobs import Job
from unspool.sse import HEADERS, KEEP_ALIVE

_INFO: Final[Json] = {
    "version": "1.75.0",  # of the runtime whose routes these are
    "mode": "sse",
    "audioFileTranscriptionEnabled": False,
    "agents": {"default": {"name": "default", "description": "unspool", "capabilities": CAPABILITIES}},
}


class StopBody(msgspec.Struct, rename="camel"):
    """`run_id`: as for AG-UI's own stop."""

    run_id: str | None = None


class Envelope(msgspec.Struct):
    """A request of the single-route form."""

    method: str
    params: dict[str, str] = {}
    body: Any = None


_AGENT: Final = "/copilotkit/agent/{agent_id}"


def routes(runs: Runs) -> list[BaseRoute]:
    """Under `/copilotkit`."""
    served = _Served(runs)
    return [
        Route("/copilotkit", answering(served.single), methods=["POST"], name="unspool.copilotkit"),
        Route("/copilotkit/info", answering(served.info), methods=["GET"], name="unspool.copilotkit.info"),
        Route(f"{_AGENT}/run", answering(served.run), methods=["POST"], name="unspool.copilotkit.run"),
        Route(f"{_AGENT}/connect", answering(served.connect), methods=["POST"], name="unspool.copilotkit.connect"),
        Route(
            f"{_AGENT}/stop/{{thread_id:path}}",
            answering(served.stop),
            methods=["POST"],
            name="unspool.copilotkit.stop",
        ),
    ]


class _Served:
    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._door = runs.door

    async def info(self, request: Request) -> Response:
        await self._door.identify(request)
        return json_response(_INFO)

    async def run(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: RunInput = await self._door.body(request, RunInput)
        return await self._runs.start(identity, body, request.path_params["agent_id"])

    async def connect(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        return await self._connect(identity, await self._door.body(request, RunInput))

    async def stop(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        body: StopBody = await self._door.body(request, StopBody, StopBody())
        return await self._stop(identity, request.path_params["thread_id"], body.run_id)

    async def single(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        asked: Envelope = await self._door.body(request, Envelope)
        match asked.method:
            case "info":
                return json_response(_INFO)
            case "agent/run":
                return await self._runs.start(identity, _as(asked.body, RunInput), asked.params.get("agentId"))
            case "agent/connect":
                return await self._connect(identity, _as(asked.body, RunInput))
            case "agent/stop" if "threadId" in asked.params:
                return await self._stop(identity, asked.params["threadId"], _as(asked.body or {}, StopBody).run_id)
            case method:
                raise BadRequest(f"method must be info, agent/run, agent/connect or agent/stop, not {method[:40]!r}")

    async def _connect(self, identity: Identity, body: RunInput) -> Response:
        """Replay the thread, then follow its last run; a thread that there is not yet has nothing to replay."""
        try:
            job = await self._door.job(identity, body.thread_id)
        except (NotFound, Gone):
            return Response(KEEP_ALIVE, headers={name.decode(): value.decode() for name, value in HEADERS})
        return await self._runs.resume(job, body.kind, await self._before(identity, job, body.kind))

    async def _before(self, identity: Identity, job: Job, kind: type[AgUi]) -> tuple[AgUi, ...]:
        """The runs of the thread before this one, as far back as they are kept without a gap."""
        earlier: list[AgUi] = []
        try:
            for generation in range(job.generation - 1, 0, -1):
                one = await self._door.job(identity, job.stream_id, generation)
                earlier.append(await self._door.project(one, kind))
        except (NotFound, Gone):
            pass
        return tuple(reversed(earlier))

    async def _stop(self, identity: Identity, thread_id: str, run_id: str | None) -> Response:
        try:
            return json_response(await self._runs.stop(identity, thread_id, run_id))
        except (NotFound, Gone):
            return json_response({"stopped": False, "threadId": thread_id})


def _as(body: Any, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the body is not valid: {error}") from error
