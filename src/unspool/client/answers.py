"""What a server answers. Fields that a newer server adds are passed over."""

from __future__ import annotations

from typing import Any

import msgspec

from unspool.events import Record
from unspool.jobs import Status

Json = dict[str, Any]


class Received(Record, frozen=True, gc=False):
    """A record of a stream: `offset`, `type`, `data`, and the number of its generation.

    A record of type `sync` carries the content so far, in the place of everything up to its offset. `Fold` takes both.
    """

    generation: int = 0

    @property
    def id(self) -> str:
        """Its position, as the server writes it."""
        return f"{self.generation}-{self.offset}"


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that was started. `attached`: it had been, before, under this request id."""

    stream_id: str
    generation: int
    status: Status
    events_url: str = ""
    attached: bool = False


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A generation in a list. `created_at`: seconds since the epoch; `elapsed`: seconds until its end, or until now."""

    stream_id: str
    generation: int
    status: Status
    active: bool
    created_at: float
    elapsed: float
    last_offset: int
    user: str | None = None
    metadata: Json = {}


class StreamState(Summary, frozen=True, kw_only=True):
    """A generation with its content up to `offset`: message parts, and the text of them joined."""

    offset: int
    first_offset: int = 1
    content: list[Json] = []
    text: str = ""
    steps: list[Json] = []
    usage: list[Json] = []
    prompts: list[Json] = []
    approvals: list[Json] = []
    steering: list[Json] = []
    title: str | None = None
    user_message: Json | None = None
    response_id: str | None = None
    conversation_id: str | None = None
    sender: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a Stop: `outcome` is stopped, already_settled or save_failed. With all of the content.

    `final`: the terminal event, its type beside its data.
    """

    outcome: str
    stream_id: str
    generation: int
    status: Status
    content: list[Json] = []
    text: str = ""
    usage: list[Json] = []
    final: Json | None = None
