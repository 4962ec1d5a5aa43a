"""What clients send, as types: decoded strictly, so that a wrong field is named and a surplus one refused."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from starlette.requests import Request

from unspool.errors import BadRequest, BodyTooLarge, InvalidArgument, UnspoolError, UnsupportedMediaType
from unspool.jobs import Metadata

MAX_BODY = 1024 * 1024
"""Bytes of a request body, by default."""
MAX_APPEND = 16 * 1024 * 1024
"""Bytes of one append to a durable stream, by default."""
_WHOLE: Final = re.compile(r"0|[1-9]\d{0,15}", re.ASCII)
_SAFE: Final = 2**53 - 1
"""The largest number that every client can hold exactly."""

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[\x20-\x7e]*$")]
"""A name that can travel in URLs, headers and keys."""

_METADATA: Final = {
    "properties": msgspec.json.schema_components([Metadata])[1]["Metadata"]["properties"],
    "additionalProperties": False,
}
"""For the document; what checks them, and names the one that is wrong, is `Metadata.of`."""


class ChatMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the conversation, in the shape of OpenAI's chat API."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class StartBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a start."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, description="The conversation, oldest first.")]
    model: Annotated[str, msgspec.Meta(description="Handed to the application's run.")] | None = None
    request_id: Annotated[Id, msgspec.Meta(description="The same id attaches to the same generation.")] | None = None
    expect_generation: (
        Annotated[int, msgspec.Meta(ge=0, description="Refuse unless this is the last one; 0: there is none.")] | None
    ) = None
    metadata: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema=_METADATA)] | None = None


class AbortBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a stop, all of it optional."""

    generation: Annotated[int, msgspec.Meta(description="Only this one; else the stream's last.")] | None = None
    reason: Annotated[str, msgspec.Meta(description="Why, for the record.")] | None = None


class StartRequest(msgspec.Struct, frozen=True):
    """What a run is started with. `messages` are plain dicts in the shape of OpenAI's chat API.

    `dialect`: the protocol that it was asked in. `parameters`: what the request says besides (temperature, tools …), in
    that protocol's own words.
    """

    stream_id: str
    messages: list[dict[str, Any]]
    model: str | None
    user: str | None
    tenant: str | None
    metadata: dict[str, Any]
    dialect: str = "native"
    parameters: dict[str, Any] = {}


T = TypeVar("T")


def is_whole(text: str) -> bool:
    """Whether it is a whole number from 0: digits, without sign, leading zeros or exponent."""
    return _WHOLE.fullmatch(text) is not None


def whole(
    field: str, value: str, least: int = 0, most: int = _SAFE, *,
    refusal: type[UnspoolError] = InvalidArgument, form: str = "",
) -> int:  # fmt: skip
    """A whole number in these bounds. Raises `refusal`, with the field, and `form` as what it must be."""
    if is_whole(value) and least <= int(value) <= most:
        return int(value)
    bounds = f"from {least}" if most == _SAFE else f"from {least} to {most}"
    raise refusal(f"{field} must be {form or f'a whole number {bounds}'}, not {value[:40]!r}", field=field)


async def received(request: Request, limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge, as soon as it is known to be."""
    declared = request.headers.get("content-length", "")
    if is_whole(declared) and int(declared) > limit:
        raise BodyTooLarge(f"the body has {declared} bytes; this server takes {limit}", limit=limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise BodyTooLarge(f"the body has more than {limit} bytes", limit=limit)
    return bytes(body)


async def body_of(request: Request, kind: type[T], *, limit: int, default: T | None = None) -> T:
    """The request's body as `kind`. Raises BodyTooLarge, UnsupportedMediaType, BadRequest, InvalidArgument."""
    body = await received(request, limit)
    if not body and default is not None:
        return default
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        # Also what keeps a foreign web page from sending this without the browser asking first.
        raise UnsupportedMediaType
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the body is not valid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
