"""Chat-completion chunks → events: the shape that OpenAI, its many imitators and llama.cpp stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from unspool.events import Event
from unspool.providers import shapes
from unspool.providers.call import ModelCall
from unspool.providers.failures import failure

Json = Mapping[str, Any]

_REASONING: Final = ("reasoning_content", "reasoning")
"""Where servers put reasoning; one that fills both puts the same text into each."""


class _Tool:
    """One tool call as it comes in: nothing of it can be told before its name is known."""

    __slots__ = ("call_id", "given_id", "waiting")

    def __init__(self, given_id: str | None) -> None:
        self.given_id = given_id
        self.call_id: str | None = None
        self.waiting = ""


class ChatStream:
    """Turns the chunks of one answer into events: `feed` each chunk, then `finish`.

    Usage is told as soon as it is final: with the chunk that has nothing else, or else at the end, since some servers
    send a growing figure with every chunk. After an error, `usage` gives what had been told until then.
    """

    def __init__(self, call: ModelCall) -> None:
        self._call = call
        self._tools: dict[object, _Tool] = {}
        self._halves: dict[str, str] = {}
        self._usage: Json | None = None
        self._usage_told = False
        self._reason: str | None = None

    def feed(self, chunk: Json) -> Iterator[Event]:
        """The events of one chunk."""
        chunk = shapes.an_object(chunk)
        choices = shapes.objects(chunk.get("choices"))
        if usage := shapes.an_object(chunk.get("usage")):
            self._usage = usage
            if not choices:
                yield from self.usage()
        for choice in choices:
            if not choice.get("index"):  # a second choice would be a second answer, in the middle of the first
                yield from self._choice(choice)

    def _choice(self, choice: Json) -> Iterator[Event]:
        delta = shapes.an_object(choice.get("delta"))
        reasoning = next((shapes.text(delta[name]) for name in _REASONING if delta.get(name)), None)
        if reasoning and (whole := self._whole("reasoning", reasoning)):
            yield self._call.reasoning(whole)
        for name in ("content", "refusal"):
            if (text := text_of(delta.get(name))) and (whole := self._whole("text", text)):
                yield self._call.text(whole)
        for tool_delta in shapes.objects(delta.get("tool_calls")):
            yield from self._tool(tool_delta)
        self._reason = shapes.name(choice.get("finish_reason")) or self._reason

    def _tool(self, delta: Json) -> Iterator[Event]:
        function = shapes.an_object(delta.get("function"))
        given_id = shapes.name(delta.get("id"))
        place = shapes.place(delta.get("index", given_id))
        tool = self._tools.get(place)
        if tool is None or (given_id and tool.given_id and given_id != tool.given_id):
            # Some servers number every call 0 and tell them apart by their ids alone.
            tool = self._tools[place] = _Tool(given_id)
        if (name := shapes.name(function.get("name"))) and tool.call_id is None:
            event = self._call.tool_call(name, given_id or tool.given_id)
            tool.call_id = event.data["call_id"]
            yield event
        tool.waiting += shapes.json_text(function.get("arguments"))
        if tool.call_id is not None and tool.waiting:
            text, tool.waiting = self._whole(tool.call_id, tool.waiting), ""
            if text:
                yield self._call.tool_args(tool.call_id, text)

    def usage(self) -> Iterator[Event]:
        """The usage that was told last, once."""
        if self._usage is not None and not self._usage_told:
            self._usage_told = True
            if event := self._call.usage(self._usage):
                yield event

    def finish(self) -> Iterator[Event]:
        """The end of the answer. Raises RunFailed where the server stopped in the middle of it."""
        yield from self.usage()
        if self._reason is None:
            raise failure("provider_unavailable", "The model provider's answer broke off.")
        if any(tool.call_id is None for tool in self._tools.values()):
            raise failure("provider_error", "The model called a tool without naming it.")
        yield self._call.finished("tool_calls" if self._reason == "function_call" else self._reason)

    def _whole(self, place: str, text: str) -> str:
        """`text` with the half character that the chunk before ended in, without the one that it ends in itself.

        Servers that escape their JSON cut between tokens, which may fall between the two surrogates of a character.
        """
        text = self._halves.pop(place, "") + text
        if "\ud800" <= text[-1] <= "\udbff":
            self._halves[place] = text[-1]
            text = text[:-1]
        return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def text_of(content: object) -> str:
    """The text of a message or a delta, of which list content is reduced to its text parts."""
    if content is None or isinstance(content, str):
        return content or ""
    parts = [part for part in shapes.objects(content) if part.get("type") == "text"]
    return "".join(text for part in parts if isinstance(text := part.get("text"), str))
