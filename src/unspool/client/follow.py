"""Following a generation, without any I/O: what to ask for, what was received, when it has ended, when to come back.

The position moves with each complete record and with nothing else, so a connection may break at any byte. What a server
sends again is not taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from time import monotonic
from typing import Final, Literal, NamedTuple

import msgspec

from unspool.client import calls
from unspool.client.answers import Received
from unspool.client.errors import UnexpectedAnswer, Unreachable, retryable
from unspool.client.retry import Retry
from unspool.errors import InvalidArgument, UnspoolError
from unspool.events import SYNC, TERMINAL
from unspool.sse import Decoder, Message

_DIGITS: Final = 15
_LONGEST_RETRY: Final = 60.0


class State(NamedTuple):
    """What a follower is doing. `offset`: how far it has come; waiting: why, and for how many seconds."""

    name: Literal["connecting", "live", "waiting"]
    offset: int
    error: UnspoolError | None = None
    seconds: float = 0.0


class Following:
    """One generation, followed. `patience`: seconds without the server after which it is given up; None: never."""

    def __init__(
        self,
        stream_id: str,
        *,
        generation: int | None = None,
        after: int = 0,
        snapshot: bool = False,
        patience: float | None = None,
        on_state: Callable[[State], object] | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        if after < 0:
            raise InvalidArgument(f"after must be an offset, 0 or more, not {after}", field="after")
        self.stream_id = stream_id
        self.generation = generation
        self.offset = after
        self.ended = False
        self._snapshot = snapshot
        self._patience = patience
        self._on_state = on_state
        self._retry = Retry(random=random)
        self._clock = clock
        self._lost_at: float | None = None
        self._decoder = Decoder()
        self._log = self._coming = ""

    def request(self) -> calls.Call:
        """What to ask for now."""
        self._tell(State("connecting", self.offset))
        return calls.events(
            self.stream_id, generation=self.generation, after=self.offset, snapshot=self._snapshot and not self.offset,
            log=self._log,
        )  # fmt: skip

    def answered(self, url: str, status: int, headers: Mapping[str, str]) -> None:
        """The connection stands. Raises UnexpectedAnswer where it is no event stream."""
        if status == 204:
            self.ended = True  # nothing comes after this position
            return
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "text/event-stream":
            raise UnexpectedAnswer(f"{url} is not an event stream: is this an unspool server?")
        self._decoder = Decoder()
        self._coming = headers.get("x-unspool-log", "")
        self._tell(State("live", self.offset))

    def feed(self, data: bytes) -> Iterator[Received]:
        """The records that these bytes complete, each once; look at `ended` afterwards. Raises UnexpectedAnswer."""
        for message in self._decoder.feed(data):
            record = _record(message)
            self._lost_at = None
            self._retry.succeeded()
            if self._decoder.retry is not None:
                self._retry.least = min(self._decoder.retry / 1000, _LONGEST_RETRY)
            if self.generation is None:
                # From here on it is named: "the stream's last" may be another one after a reconnect.
                self.generation = record.generation
            self._log = self._log or self._coming  # what comes from now on must come from it
            rewound = record.type == SYNC and record.data.get("reason") == "rewound"  # the store has lost its end
            known = record.offset < self.offset if record.type == SYNC else record.offset <= self.offset
            known = known and not rewound
            if record.generation != self.generation or known:
                continue
            self.offset = record.offset
            self.ended = record.type in TERMINAL
            yield record
            if self.ended:
                return

    def lost(self, error: UnspoolError | None = None) -> float:
        """The connection ended before the generation did: seconds until the next attempt, or the error is raised.

        Without an error it ended cleanly, which is no end either: a proxy, or a server that is going away.
        """
        if error is None:
            error = Unreachable("the server ended the connection before the generation had ended")
        if not retryable(error):
            raise error
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
        seconds = self._retry.after(error)
        if self._patience is not None and now + seconds - self._lost_at > self._patience:
            raise Unreachable(
                f"no contact for {self._patience:g} seconds, giving up at offset {self.offset}: {error}",
                **error.details,
            ) from error
        self._tell(State("waiting", self.offset, error, seconds))
        return seconds

    def _tell(self, state: State) -> None:
        if self._on_state is not None:
            self._on_state(state)


def _record(message: Message) -> Received:
    generation, dash, offset = (message.id or "").partition("-")
    if not (dash and all(_is_number(part) for part in (generation, offset))):
        raise UnexpectedAnswer(f"an event came without a position ({message.id!r}): is this an unspool server?")
    payload = message.data.encode(errors="replace")
    try:
        msgspec.json.decode(payload, type=dict)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnexpectedAnswer("an event's data is not a JSON object: is this an unspool server?") from error
    return Received(int(offset), message.event, payload, generation=int(generation))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS
