"""Bytes on the wire: the SSE decoder, a client's position, the body of a start, a server's refusal."""

from __future__ import annotations

import asyncio
import re
import unicodedata
from typing import Any

import msgspec
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request

from tests.fuzz.inputs import json_objects, json_values
from tests.fuzz.target import Target, pieces
from unspool.cli.remote import line_of
from unspool.client.errors import error_of, retryable
from unspool.errors import BadRequest, UnspoolError
from unspool.events import Record, encode_data
from unspool.http.problem import problem
from unspool.http.requests import AbortBody, StartBody, body_of
from unspool.http.stream import Position, position_of
from unspool.jobs import GenerationKey, Metadata
from unspool.sse import Decoder, Message, native_frame

# SSE


def _messages(*chunks: bytes) -> tuple[list[Message], str, int | None]:
    decoder = Decoder()
    return [message for chunk in chunks for message in decoder.feed(chunk)], decoder.last_event_id, decoder.retry


def check_sse(data: bytes) -> None:
    """Fed whole or cut anywhere, the messages are the same; and they are those of httpx-sse."""
    whole = _messages(data)
    for step in (1, 2, 7) if len(data) < 500 else (101,):
        assert _messages(*(data[at : at + step] for at in range(0, len(data), step))) == whole
    assert _messages(b"", data, b"") == whole
    for message in whole[0]:
        assert "\r" not in message.data + message.event + (message.id or "")
        assert "\n" not in message.event + (message.id or "")
    _compare_with_httpx_sse(data, whole[0])


def _compare_with_httpx_sse(data: bytes, ours: list[Message]) -> None:
    # It keeps the byte order mark and takes a few more forms of `retry`, against the standard; and it dispatches
    # blocks without data, which cannot be told from empty data.
    lines, decoder, theirs = SSELineDecoder(), SSEDecoder(), []
    text = data.decode(errors="replace").removeprefix("\ufeff")
    found = [*lines.decode(text), *lines.flush()]
    for line in found:
        event = decoder.decode(line)
        if event is not None and event.data:
            theirs.append((event.event, event.data, event.id or None, event.retry))
    plain = all(re.fullmatch(r"retry: ?[0-9]{1,15}", line) for line in found if line.startswith("retry"))
    assert [tuple(message)[: 4 if plain else 3] for message in ours if message.data] == [
        event[: 4 if plain else 3] for event in theirs
    ]


_frames = st.lists(st.tuples(st.integers(1, 99), st.integers(1, 10**9), json_objects), max_size=4).map(
    lambda records: b"".join(
        native_frame(GenerationKey("s", generation), Record(offset, "custom", encode_data(data)))
        for generation, offset, data in records
    )
)

SSE = Target(
    name="sse",
    claim="the SSE decoder gives the same messages however the bytes are cut, and those of httpx-sse",
    inputs=pieces(
        b"data", b"data: ", b"event: x", b"id: ", b"id: 1-2", b"retry: ", b"retry: 10", b"9" * 4400, b":", b" ", b"\n",
        b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\0", b"\xef\xbb\xbf", b"\xe2\x82", "€".encode(),
    ) | _frames | st.binary(max_size=80),
    check=check_sse,
    raw=True,
    seeds=[
        b"event: text.delta\ndata: {}\nid: 1-2\n\n", b"retry: 10\ndata: a\r\rdata: b\n\n", b"\xef\xbb\xbfdata\n\n",
    ],
    found=[b"retry: " + b"9" * 5000 + b"\ndata: a\n\n"],
)  # fmt: skip

# positions

_NUMBER = r"[0-9]{1,15}"


def check_position(asked: tuple[dict[str, str], str]) -> None:
    """A position is taken as it stands, or refused by name; nothing is guessed."""
    headers, query = asked
    params, refused, position = QueryParams(query), None, Position()
    try:
        position = position_of(Headers(headers), params)
    except BadRequest as error:
        refused = error
    if refused is not None:
        assert refused.details["field"] in ("generation", "snapshot", "Last-Event-ID", "after")
        assert refused.details["field"] in refused.message
        return
    token = headers.get("last-event-id") or params.get("after", "0")
    match = re.fullmatch(rf"(?:({_NUMBER})-)?({_NUMBER})", token)
    assert match, token
    assert position.after == int(match[2])
    assert position.claimed == (int(match[1]) if match[1] else None)
    assert position.generation == (int(params["generation"]) if "generation" in params else None)
    assert position.snapshot is (params.get("snapshot", "0") in ("1", "true"))


_tokens = st.text(st.sampled_from("0123456789-+ ٣²_.e"), max_size=18) | st.from_regex(
    r"[0-9]{1,3}-[0-9]{1,3}", fullmatch=True
)


def _fits(value: str) -> bool:
    return all(ord(character) < 256 for character in value)


_latin = st.text(st.characters(max_codepoint=255), max_size=12)

POSITION = Target(
    name="position",
    claim="Last-Event-ID, after, generation and snapshot are understood exactly, or refused by name",
    inputs=st.tuples(
        st.fixed_dictionaries({}, optional={"last-event-id": _tokens.filter(_fits) | _latin}),
        st.fixed_dictionaries(
            {}, optional={"after": _tokens | _latin, "generation": _tokens, "snapshot": st.sampled_from("01tx²")}
        ).map(lambda query: str(QueryParams(query))) | st.text(max_size=20),
    ),
    check=check_position,
)  # fmt: skip

# request bodies

_LIMIT = 2000


async def _read(body: bytes, kind: type[Any], headers: dict[str, str]) -> Any:
    parts = [body[:7], body[7:]]

    async def receive() -> dict[str, Any]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)
    return await body_of(request, kind, limit=_LIMIT, default=AbortBody() if kind is AbortBody else None)


def _check_refusal(error: UnspoolError) -> None:
    assert error.fault == "caller"
    assert 400 <= error.status < 500
    told = msgspec.json.decode(problem(error).body)
    assert (told["status"], told["code"]) == (error.status, error.code)
    assert told["detail"]


def check_body(body: bytes) -> None:
    """A body is what its type says, or is refused with a 4xx that says why; what was taken can be told again."""
    for kind in (StartBody, AbortBody):
        try:
            taken = asyncio.run(_read(body, kind, {"content-type": "application/json"}))
            if isinstance(taken, StartBody):
                Metadata.of(taken.metadata)
        except UnspoolError as error:
            _check_refusal(error)
            continue
        assert len(body) <= _LIMIT
        if isinstance(taken, StartBody):
            again = msgspec.json.encode(msgspec.to_builtins(taken))
            assert msgspec.json.decode(again, type=StartBody) == taken


_message = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "tool", "robot"])},
    optional={"content": json_values, "name": json_values, "tool_calls": json_values},
)
_start = st.fixed_dictionaries(
    {"messages": st.lists(_message, max_size=3) | json_values},
    optional={
        "model": json_values, "request_id": json_values, "expect_generation": json_values | st.integers(),
        "metadata": json_objects | json_values, "surplus": json_values,
    },
)  # fmt: skip

BODY = Target(
    name="body",
    claim="the body of a start or a stop is what its type says, or is refused with a 4xx that says why",
    inputs=(_start | json_values).map(encode_data)
    | pieces(
        b'{"messages":[', b'{"role":"user","content":"x"}', b'"metadata":{"extra":', b"{", b"}", b"[", b"]", b",", b":",
        b'"', b'"\\ud800"', b"1e400", b"9" * 4400, b"null", b"[" * 1500, b'{"a":' * 300,
    ),
    check=check_body,
    raw=True,
    seeds=[
        b'{"messages":[{"role":"user","content":"x"}],"request_id":"r","metadata":{"title":"t"},"expect_generation":0}',
        b'{"generation":1,"reason":"r"}',
    ],
)  # fmt: skip

# refusals, as a client reads them


def check_problem(answer: tuple[int, dict[str, str], bytes]) -> None:
    """Whatever a server answers, the client makes one readable line of it, and knows whether to come back."""
    status, headers, body = answer
    error = error_of("http://127.0.0.1/v1/streams/s", status, "Phrase", headers, body)
    assert retryable(error) is (status in (408, 425, 429) or status >= 500)
    line = line_of(error)
    assert line
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in line)
    assert len(line) < 500
    assert 0 <= error.details["retry_after"] <= 60


_problem = st.fixed_dictionaries({}, optional={"detail": json_values, "title": json_values, "status": json_values})

PROBLEM = Target(
    name="problem",
    claim="whatever a server refuses with, the client makes one readable line of it",
    inputs=st.tuples(
        st.sampled_from([400, 401, 404, 409, 410, 422, 429, 500, 503]),
        st.fixed_dictionaries({}, optional={"retry-after": _tokens.filter(str.isascii) | st.just("9" * 400)}),
        (_problem | json_values).map(encode_data) | pieces(b"{", b'"detail":', b"[" * 1500, b"9" * 4400, b'"\\ud800"'),
    ),
    check=check_problem,
    found=[(500, {}, b"[" * 100_000), (404, {}, b'{"detail":"\\ud800"}')],
)  # fmt: skip

TARGETS = [SSE, POSITION, BODY, PROBLEM]
