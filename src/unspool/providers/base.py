"""What every model looks like to a run: a stream of events of the vocabulary, and a way to stop it.

A model knows nothing of generations: it turns one call into events, and `Generation.relay` writes them. Closing or
cancelling the iterator stops the upstream request at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

from unspool.events import Event


class Message(TypedDict):
    """One message of a conversation, in the shape of OpenAI's chat API: the shape that every adapter takes."""

    role: str
    content: str | list[dict[str, Any]] | None
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]


class Model(Protocol):
    """A model that a run can call. `name` is what usage is charged under, `provider` who serves it."""

    name: str
    provider: str

    def stream(
        self, messages: Sequence[Message], *, call_id: str, agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:  # fmt: skip
        """One model call as events, in this order: `step.started` (id = `call_id`), then deltas and tool calls, then
        exactly one `usage` where the provider told it, then `step.finished` with `finish_reason`.

        Text and reasoning deltas carry no `part_id`: the producer gives it. With `agent`, every event names it.
        `tools`: in the shape of OpenAI's chat API. Raises RunFailed, with the provider's error as its cause.
        """
        ...

    async def close(self) -> None:
        """Give back connections. Idempotent."""
        ...
