"""What an answer consists of so far, as AG-UI messages: the state that a client has after the same events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from unspool.http.dialects.values import Json, as_list, as_object

ROLES: Final = frozenset({"developer", "system", "assistant", "user", "tool", "activity", "reasoning"})


class Said(msgspec.Struct, omit_defaults=True):
    """One message of the answer. `text`: pieces, see `grow`; `calls`: the tool calls that it makes; `call`: the one
    that it answers, `failed` where that went wrong."""

    id: str
    role: str
    text: list[str] = msgspec.field(default_factory=list[str])
    name: str | None = None
    calls: list[str] = msgspec.field(default_factory=list[str])
    call: str | None = None
    failed: bool = False


class Call(msgspec.Struct, omit_defaults=True):
    """A tool call. `parent`: the message that makes it; `arguments`: pieces; `open`: more of them may come."""

    name: str
    parent: str
    arguments: list[str] = msgspec.field(default_factory=list[str])
    open: bool = True
    answered: bool = False


class Conversation(msgspec.Struct, kw_only=True):
    """Messages in the order in which a client has them."""

    said: dict[str, Said] = msgspec.field(default_factory=dict[str, Said])
    order: list[str] = msgspec.field(default_factory=list[str])
    calls: dict[str, Call] = msgspec.field(default_factory=dict[str, Call])

    def add(self, message: Said) -> None:
        self.said[message.id] = message
        self.order.append(message.id)

    def answer(self, message: Said, parent: str) -> None:
        """A tool's result stands behind the message that called it, and behind the results that are there already."""
        at = len(self.order)
        while self.order[at - 1] != parent:  # from the end, where it nearly always is
            at -= 1
        while at < len(self.order) and self.said[self.order[at]].role == "tool":
            at += 1
        self.said[message.id] = message
        self.order.insert(at, message.id)

    def late(self) -> str | None:
        """The first message that was put before others which were there already."""
        return next((one for one, came in zip(self.order, self.said, strict=True) if one != came), None)

    def messages(self, *, live: bool) -> list[Json]:
        """`live`: more comes. The arguments of open calls are left out then: they are told anew."""
        return [self._message(self.said[message_id], live) for message_id in self.order]

    def _message(self, said: Said, live: bool) -> Json:
        message: Json = {"id": said.id, "role": said.role}
        if said.role == "tool":
            message |= {"toolCallId": said.call, "content": "".join(said.text)}
            return {**message, "metadata": FAILED} if said.failed else message
        if said.text or not said.calls:
            message["content"] = "".join(said.text)
        if said.name is not None:
            message["name"] = said.name
        if said.calls:
            message["toolCalls"] = [self._call(call_id, live) for call_id in said.calls]
        return message

    def _call(self, call_id: str, live: bool) -> Json:
        call = self.calls[call_id]
        function = {"name": call.name, "arguments": "" if live and call.open else "".join(call.arguments)}
        return {"id": call_id, "type": "function", "function": function}


FAILED: Final = {"isError": True}
"""The metadata of a result that is an error: the protocol's event for it has no field of its own."""


def grow(pieces: list[str], text: str) -> None:
    """Add to a text that is kept in few pieces, each longer than the next: that copies little, however long it gets."""
    while pieces and len(pieces[-1]) <= len(text):
        text = pieces.pop() + text
    pieces.append(text)


def known(messages: object) -> list[Json]:
    """Those of a client's messages that can be told to another client."""
    found = map(as_object, as_list(messages))
    return [one for one in found if isinstance(one.get("id"), str) and one.get("role") in ROLES]


def joined(runs: Iterable[tuple[list[Json], list[Json]]]) -> list[Json]:
    """The messages of a whole thread, from what each run was asked and what it said, oldest first.

    What a run said counts more than what a client repeats of it, which may be only a part.
    """
    thread: dict[str, Json] = {}
    answers: set[str] = set()
    for asked, said in runs:
        thread.update({message["id"]: message for message in asked if message["id"] not in answers})
        thread.update({message["id"]: message for message in said})
        answers.update(message["id"] for message in said)
    return list(thread.values())
