"""The events of one model call, made the same way by every adapter."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from unspool import events
from unspool.errors import InvalidArgument
from unspool.events import Event
from unspool.ledger.usage import normalise, usage_event

_log = logging.getLogger("unspool.providers")


class ModelCall:
    """Makes the events of one call of `model` by `provider`. With `agent`, every event names it."""

    def __init__(self, model: str, provider: str, call_id: str, agent: str | None = None) -> None:
        self.model = model
        self.provider = provider
        self.call_id = call_id
        self.agent = agent
        self.tools = 0

    def event(self, type_: str, /, **data: Any) -> Event:
        """An event of this call."""
        return Event(type_, data if self.agent is None else data | {"agent": self.agent})

    def started(self) -> Event:
        return self.event(events.STEP_STARTED, id=self.call_id, kind="message", name=self.model)

    def text(self, text: str) -> Event:
        return self.event(events.TEXT_DELTA, text=text)

    def reasoning(self, text: str) -> Event:
        return self.event(events.REASONING_DELTA, text=text)

    def tool_call(self, name: str, tool_call_id: str | None = None) -> Event:
        """The model wants `name` called. A tool call to which the provider gave no id gets one, unique to this call."""
        self.tools += 1
        return self.event(events.TOOL_CALL, call_id=tool_call_id or f"{self.call_id}/tool/{self.tools}", name=name)

    def tool_args(self, tool_call_id: str, text: str) -> Event:
        return self.event(events.TOOL_ARGS_DELTA, call_id=tool_call_id, text=text)

    def usage(self, raw: Mapping[str, Any]) -> Event | None:
        """The usage that the provider told, None where it makes no sense: unknown usage is a state, not a failure."""
        try:
            usage = normalise(raw)
        except InvalidArgument:
            _log.warning("call %s: %s sent a usage that is not valid", self.call_id, self.provider, exc_info=True)
            return None
        if usage.suspect:
            _log.warning("call %s: the usage that %s sent contradicts itself: %s", self.call_id, self.provider, raw)
        return usage_event(usage, call_id=self.call_id, model=self.model, provider=self.provider, agent=self.agent)

    def finished(self, reason: str) -> Event:
        """The end. `reason` is stop, length, tool_calls, content_filter, or a word of the provider's own."""
        kind = "tool_calls" if self.tools else "message"
        return self.event(events.STEP_FINISHED, id=self.call_id, kind=kind, finish_reason=reason)
