"""Blocks of HTTP: a request is sent as it stands, and the answer compared with the one that is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import httpx2

from tests.docs.servers import PATIENCE
from tests.docs.shape import mismatch
from unspool.sse import Decoder, Message


@dataclass(frozen=True, slots=True)
class Head:
    """The first line, the headers and the body of a message as it is shown."""

    first: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = ""

    @classmethod
    def of(cls, text: str) -> Head:
        head, _, body = text.partition("\n\n")
        first, *lines = head.strip().split("\n")
        return cls(first, dict(line.split(": ", 1) for line in lines), body)


async def send(url: str, text: str) -> httpx2.Response:
    """Send a request that is shown, and read the whole answer."""
    request = Head.of(text)
    method, path = request.first.split(" ")
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        content = request.body.strip().encode() or None
        return await client.request(method, path, headers=request.headers, content=content)


def compare(text: str, real: httpx2.Response) -> None:
    """Hold a real answer against the one that is shown: status, headers, and the shape of the body."""
    shown = Head.of(text)
    version, status, _ = shown.first.split(" ", 2)
    assert version == "HTTP/1.1"
    assert int(status) == real.status_code, f"shown is {status}, answered was {real.status_code}: {real.text}"
    for name, value in shown.headers.items():
        assert real.headers.get(name) == value, f"{name} is {real.headers.get(name)!r}"
    if shown.headers.get("Content-Type", "").startswith("text/event-stream"):
        _compare_events(shown.body, real.content)
    elif shown.body.strip():
        assert (found := mismatch(json.loads(shown.body), real.json())) is None, found


def _compare_events(shown: str, real: bytes) -> None:
    """Each event that is shown must have one like it, in this order; the first shown is the first."""
    rest = Decoder().feed(real)
    events = Decoder().feed(shown.encode())
    assert events, "no events are shown: each needs a blank line after it"
    assert events[0].event == rest[0].event, f"the first event is {rest[0].event}"
    for event in events:
        reasons: list[str] = []
        for place, candidate in enumerate(rest):
            reason = _event_mismatch(event, candidate)
            if reason is None:
                rest = rest[place + 1 :]
                break
            reasons.append(reason)
        else:
            raise AssertionError(f"no event is like the one shown, {event}: {reasons[:5]}")


def _event_mismatch(shown: Message, real: Message) -> str | None:
    if shown.event != real.event:
        return f"it is {real.event}"
    if (shown.retry is None) != (real.retry is None):
        return f"retry is {real.retry}"
    if (shown.id or "").partition("-")[0] != (real.id or "").partition("-")[0]:
        return f"its id is {real.id}"
    return mismatch(json.loads(shown.data), json.loads(real.data))
