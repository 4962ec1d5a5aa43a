"""The routes of the Responses API. A response is a generation; its id is the stream's.

Source: the `openai` clients 3.54 (Python) and 7.55 (JavaScript), and the specification of Open Responses.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from unspool.errors import BadRequest, Gone, InvalidPosition, NotFound
from unspool.http.auth import Identity
from unspool.http.dialects.openai_api import (
    answering,
    body_of,
    ended,
    guarded,
    headers_of,
    metadata_of,
    model_routes,
    name_of,
    start,
)
from unspool.http.dialects.responses.inputs import items_of, numbered, to_chat
from unspool.http.dialects.responses.projection import Responses
from unspool.http.dialects.responses.resource import echo
from unspool.http.door import Door, json_response
from unspool.http.requests import StartRequest, whole
from unspool.jobs import Job, Status

Json = dict[str, Any]

CHAIN: Final = 100
"""Responses that may stand before one, by `previous_response_id`."""
_RECENT: Final = 200
"""Generations of a user among which the last one of a conversation is looked for."""
_PAGE: Final = 20
_MOST: Final = 100


class CreateBody(msgspec.Struct):
    """The fields of a request that mean something here; all others are the run's."""

    input: str | list[Json] | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: str | Json | None = None
    metadata: Json | None = None
    store: bool | None = None
    tools: list[Json] | None = None
    text: Json | None = None
    reasoning: Json | None = None


_HANDLED: Final = frozenset(CreateBody.__struct_fields__) - {"store", "tools", "text", "reasoning"}


def routes(door: Door) -> list[BaseRoute]:
    """The routes of this dialect."""
    door.keep(Responses)
    served = _Responses(door)
    one = "/v1/responses/{response_id:path}"
    listed = (
        ("/v1/responses", served.create, "POST", "create"),
        (f"{one}/cancel", served.cancel, "POST", "cancel"),
        (f"{one}/input_items", served.input_items, "GET", "input_items"),
        (one, served.retrieve, "GET", "retrieve"),
        (one, served.delete, "DELETE", "delete"),
    )
    made = (
        Route(path, answering(handler), methods=[method], name=f"unspool.responses.{name}")
        for path, handler, method, name in listed
    )
    return guarded(door, [*made, *model_routes(door)])


class _Responses:
    def __init__(self, door: Door) -> None:
        self._door = door

    async def create(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        given, body = await body_of(self._door, request, CreateBody)
        items = items_of(body.input)
        if not items and body.previous_response_id is None and body.conversation is None:
            raise BadRequest("input must say something", field="input")
        if body.background and body.store is False:
            raise BadRequest("background needs store: what nobody may keep, nobody can come back to", field="store")
        conversation = _conversation(body)
        created = name_of(request, identity, "resp_", given)
        previous = body.previous_response_id or await self._last_of(identity, conversation, created.stream_id)
        earlier = await self._before(identity, previous)
        system = [{"role": "system", "content": body.instructions}] if body.instructions else []
        parameters = {name: value for name, value in given.items() if name not in _HANDLED and value is not None}
        details = StartRequest(
            created.stream_id, [*system, *to_chat([*earlier, *items])], body.model, None, None,
            metadata_of(body.metadata, body.model, conversation), "responses", parameters,
        )  # fmt: skip
        kept = {"echo": echo(given), "input": items, "previous": previous}
        job = await start(self._door, identity, details, created, {Responses.name: kept})
        if body.stream:
            return await self._door.follow(job, Responses, headers=headers_of(job))
        if not body.background:
            sealed = await ended(self._door, identity, job, request)
            if sealed is None:
                return Response(status_code=499)
            job = sealed
        return await self._resource(job, kept)

    async def retrieve(self, request: Request) -> Response:
        job = await self._job(request, await self._door.identify(request))
        query = request.query_params
        if query.get("stream", "false") not in ("true", "1"):
            return await self._resource(job)
        position = _number("starting_after", query.get("starting_after"), -1) + 1
        try:
            return await self._door.follow(job, Responses, position, headers=headers_of(job))
        except InvalidPosition as error:
            raise BadRequest(error.message, field="starting_after", code="invalid_starting_after") from error

    async def cancel(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        job = await self._job(request, identity)
        if not job.settled:
            await self._door.stop(identity, job.stream_id, job.generation)
            job = await self._job(request, identity, job.generation)
        if job.status is Status.COMPLETE:
            raise BadRequest("Cannot cancel a completed response.", code="response_completed")
        return await self._resource(job)

    async def delete(self, request: Request) -> Response:
        identity = await self._door.identify(request)
        job = await self._job(request, identity)
        if not job.settled:
            await self._door.stop(identity, job.stream_id, job.generation)
        await self._door.manager.delete(job.stream_id, generation=job.generation, **identity.owner())
        return json_response({"id": job.stream_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        job = await self._job(request, await self._door.identify(request))
        query = request.query_params
        order, limit = query.get("order", "desc"), _number("limit", query.get("limit"), _PAGE)
        if order not in ("asc", "desc") or not 1 <= limit <= _MOST:
            field = "limit" if order in ("asc", "desc") else "order"
            raise BadRequest(f"order must be asc or desc, and limit from 1 to {_MOST}", field=field)
        known = await self._door.project(job, Responses)
        items = numbered(known.request.get("input") or [], job.stream_id)
        if order == "desc":
            items.reverse()
        if (after := query.get("after")) is not None:
            place = next((place for place, item in enumerate(items) if item["id"] == after), None)
            if place is None:
                raise BadRequest(f"after: there is no item {after[:80]!r} here", field="after")
            items = items[place + 1 :]
        page = items[:limit]
        return json_response(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(items) > len(page),
            }
        )

    async def _job(self, request: Request, identity: Identity, generation: int | None = None) -> Job:
        response_id = request.path_params["response_id"]
        try:
            return await self._door.job(identity, response_id, generation)
        except (NotFound, Gone) as error:
            raise NotFound(f"Response with id '{response_id[:80]}' not found.", field="response_id") from error

    async def _resource(self, job: Job, kept: Json | None = None) -> Response:
        """The response as it stands. `kept`: what its request said, for as long as the log does not."""
        known = await self._door.project(job, Responses)
        known.request = known.request or kept or {}
        response = known.resource()
        if response["status"] == "completed" and job.settled_at is not None:
            response["completed_at"] = int(job.settled_at)
        return json_response(response, headers=headers_of(job))

    # what came before

    async def _before(self, identity: Identity, previous: str | None) -> list[Json]:
        """Input and output of a response and of all before it, oldest first."""
        found: list[list[Json]] = []
        while previous is not None:
            if len(found) == CHAIN:
                raise BadRequest(
                    f"more than {CHAIN} responses stand before this one: send what was said as input",
                    field="previous_response_id", code="chain_too_long",
                )  # fmt: skip
            try:
                job = await self._door.job(identity, previous)
                known = await self._door.project(job, Responses)
            except (NotFound, Gone) as error:
                raise BadRequest(
                    f"Previous response with id '{previous[:80]}' not found.",
                    field="previous_response_id", code="previous_response_not_found",
                ) from error  # fmt: skip
            if not job.settled:
                raise BadRequest(
                    f"Response '{previous}' is still in progress: wait for its end, or cancel it.",
                    field="previous_response_id", code="previous_response_in_progress",
                )  # fmt: skip
            found.append([*(known.request.get("input") or []), *(item.shown() for item in known.items)])
            previous = known.request.get("previous")
        return [item for items in reversed(found) for item in items]

    async def _last_of(self, identity: Identity, conversation: str | None, new: str) -> str | None:
        """The response that a conversation ended with, before this new one."""
        if conversation is None:
            return None
        jobs = await self._door.manager.jobs(limit=_RECENT, **identity.owner())
        of_it = (job for job in jobs if job.metadata.conversation_id == conversation and job.stream_id != new)
        return next((job.stream_id for job in of_it), None)


def _conversation(body: CreateBody) -> str | None:
    given = body.conversation
    if given is None:
        return None
    if body.previous_response_id is not None:
        raise BadRequest("conversation and previous_response_id exclude each other", field="conversation")
    name = given if isinstance(given, str) else given.get("id")
    if not isinstance(name, str) or not name:
        raise BadRequest("conversation must be an id, or an object with an id", field="conversation")
    return name


def _number(field: str, value: str | None, default: int) -> int:
    if value is None or value == "":
        return default
    return whole(field, value, refusal=BadRequest)
