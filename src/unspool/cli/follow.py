"""Following a stream over HTTP through every reconnect: each event once, in order, until the terminal one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import httpx2

from unspool.cli.output import CommandError
from unspool.cli.remote import Refused, Remote, Unreachable, stream_path
from unspool.events import SYNC, TERMINAL
from unspool.http.sse import Decoder, Message
from unspool.jobs import ACTIVE


class Received(NamedTuple):
    """One event of the stream, with its position."""

    generation: int
    offset: int
    type: str
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.generation}-{self.offset}"


class Backoff:
    """How long to wait before the next attempt: twice as long each time, and never quite the same."""

    def __init__(self, random: Random, *, first: float = 0.5, most: float = 10.0) -> None:
        self._random = random
        self._first = first
        self._most = most
        self._attempt = 0

    def reset(self, first: float | None = None) -> None:
        """It worked: begin anew, from `first` seconds where the server said so."""
        self._attempt = 0
        if first is not None:
            self._first = first

    def next(self) -> float:
        """Seconds to wait. Between half and the whole, so that a thousand clients do not come back as one."""
        whole = min(self._most, self._first * 2.0**self._attempt)
        self._attempt = min(self._attempt + 1, 32)
        return whole * self._random.uniform(0.5, 1.0)


class Follower:
    """Follows one generation. Iterate over `events`; afterwards `position` tells how far it came.

    `notify` is told when the connection is lost and when it is back. After `patience` seconds without a word from the
    server it gives up; the first connection has one attempt.
    """

    def __init__(
        self,
        remote: Remote,
        stream_id: str,
        *,
        generation: int | None = None,
        after: int = 0,
        patience: float = 60.0,
        notify: Callable[[str], None] = lambda _: None,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.stream_id = stream_id
        self.generation = generation
        self.position = after
        self._remote = remote
        self._patience = patience
        self._notify = notify
        self._backoff = Backoff(random or Random())
        self._sleep = sleep
        self._clock = clock
        self._last_event_id = ""
        self._connected = False
        self._lost_at: float | None = None

    async def events(self) -> AsyncGenerator[Received, None]:
        """Every event after the position, each once, the terminal one last.

        Ends without a terminal event only where the position was already behind it. Raises Refused, Unreachable.
        """
        while True:
            try:
                async with aclosing(self._connection()) as received:
                    async for event in received:
                        yield event
                        if event.type in TERMINAL:
                            return
                return
            except Unreachable as error:
                await self._wait(error)

    async def _connection(self) -> AsyncGenerator[Received, None]:
        """The events of one connection. Returns when there is nothing to add; raises Unreachable when it is cut."""
        # The generation is named from the first event on: "the stream's last" may be another one after a reconnect.
        params: dict[str, str | int] = {} if self.generation is None else {"generation": self.generation}
        if self.position and not self._last_event_id:
            params["after"] = self.position
        ended = False
        try:
            async with self._remote.events(
                stream_path(self.stream_id, "events"), params, self._last_event_id
            ) as response:
                if response is None:
                    return
                self._connected = True
                decoder = Decoder(self._last_event_id)
                async for message in _messages(response, decoder):
                    self._recover(decoder)
                    event = self._advance(message)
                    if event is not None:
                        ended = event.type == SYNC and event.data.get("status") not in ACTIVE
                        yield event
        except Refused as error:
            if not self._connected:
                raise
            raise Refused(
                f"after a reconnect at position {self._last_event_id or self.position}: {error}", error.status
            ) from error
        if ended:
            return  # the snapshot covered the terminal event as well
        # A clean end without a terminal event is no end: a proxy, or a server that is going away.
        raise Unreachable("the server ended the connection before the generation had ended")

    def _advance(self, message: Message) -> Received | None:
        """Take a message in and move the position; None for what was seen before."""
        generation, offset = _position(message)
        if self.generation is None:
            self.generation = generation
        if generation != self.generation or (offset <= self.position and message.event != SYNC):
            return None
        self.position = offset
        self._last_event_id = f"{generation}-{offset}"
        return Received(generation, offset, message.event, _object(message.data))

    def _recover(self, decoder: Decoder) -> None:
        if self._lost_at is not None:
            self._lost_at = None
            self._notify(f"connected again, resumed at offset {self.position}")
        self._backoff.reset(None if decoder.retry is None else min(decoder.retry / 1000, 10.0))

    async def _wait(self, error: Unreachable) -> None:
        """Wait for the next attempt. Raises Unreachable when there is to be none."""
        if not self._connected:
            raise error
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
            self._notify(f"connection lost at offset {self.position}, reconnecting …")
        delay = max(self._backoff.next(), error.retry_after or 0.0)
        if now + delay - self._lost_at > self._patience:
            raise Unreachable(
                f"no contact for {self._patience:g} seconds, giving up at offset {self.position}: {error}"
            )
        await self._sleep(delay)


async def _messages(response: httpx2.Response, decoder: Decoder) -> AsyncGenerator[Message, None]:
    async for chunk in response.aiter_raw():
        for message in decoder.feed(chunk):
            yield message


def _position(message: Message) -> tuple[int, int]:
    generation, dash, offset = (message.id or "").partition("-")
    if not (dash and all(part.isascii() and part.isdigit() and len(part) < 16 for part in (generation, offset))):
        raise CommandError(f"the server sent an event without a position ({message.id!r}): is this an unspool server?")
    return int(generation), int(offset)


def _object(text: str) -> dict[str, Any]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CommandError("the server sent an event whose data is not a JSON object: is this an unspool server?")
    return found  # pyright: ignore[reportUnknownVariableType]
