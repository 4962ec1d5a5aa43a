"""The scripted model: says what a test or a demonstration tells it to, the same every time, and can fail or stall."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from random import Random
from typing import Any, Final

import msgspec

from unspool.errors import RunFailed
from unspool.events import Event
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.chat import text_of
from unspool.testing.prose import compose

_TOKEN: Final = re.compile(r"\s*\w+|\s*[^\w\s]+|\s+")
_LONG: Final = 8
"""Characters above which a word comes in pieces, as the tokens of a model do."""
_TOKEN_LENGTH: Final = 4
"""Characters of a token on average: what the usage of a made-up answer is counted by."""


class Say(msgspec.Struct, frozen=True):
    """Answer with `text`, in chunks like a model's tokens."""

    text: str


class Think(msgspec.Struct, frozen=True):
    """Reason with `text`, in chunks."""

    text: str


class CallTool(msgspec.Struct, frozen=True):
    """Call a tool: its name, then its arguments in chunks of their JSON; a string is taken as that JSON itself.

    Without `call_id` the tool call gets `{call_id of the model call}/tool/{n}`.
    """

    name: str
    arguments: dict[str, Any] | str = {}
    call_id: str | None = None


class ReportUsage(msgspec.Struct, frozen=True):
    """Tell the usage of the call, in tokens, inclusive. Without this step the model tells none."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0


class Wait(msgspec.Struct, frozen=True):
    """Be silent for `seconds`."""

    seconds: float


class Stall(msgspec.Struct, frozen=True):
    """Be silent until the call is cancelled or closed."""


class Fail(msgspec.Struct, frozen=True):
    """Fail as a provider does: the call raises RunFailed."""

    message: str = "The model provider failed to answer."
    code: str = "provider_error"
    retryable: bool = False


class Finish(msgspec.Struct, frozen=True):
    """End the call here, with this finish reason. At the end of a script it is tool_calls or stop, as it was."""

    reason: str = "stop"


Step = Say | Think | CallTool | ReportUsage | Wait | Stall | Fail | Finish
Script = Sequence[Step] | Callable[[Sequence[Message]], Sequence[Step]]


class Request(msgspec.Struct, frozen=True):
    """What a scripted model was asked."""

    messages: tuple[Message, ...]
    call_id: str
    agent: str | None
    tools: tuple[dict[str, Any], ...]


class ScriptedModel:
    """A model that plays a script. The same seed, script and messages give the same chunks after the same delays.

    `script`: steps, or a function from the messages to steps (an agent's second turn differs from its first); without
    one the model makes up an answer in Markdown that takes up the user's question. `delay`: mean seconds before each
    chunk, which vary by half. `sleep`: takes seconds; that of a virtual clock, for example.

    `calls`, `stopped` and `failed` count the calls begun, closed or cancelled early, and ended by `Fail`; `requests`
    has the last 32 of them.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        seed: int = 0,
        delay: float = 0.0,
        name: str = "scripted",
        provider: str = "scripted",
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.provider = provider
        self.calls = 0
        self.stopped = 0
        self.failed = 0
        self.requests: deque[Request] = deque(maxlen=32)
        self._script = script
        self._seed = seed
        self._delay = delay
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<ScriptedModel {self.name} seed={self._seed} calls={self.calls} stopped={self.stopped}>"

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:
        """Play the script as one call, in the order of `Model.stream`. Raises RunFailed at a `Fail`."""
        self.calls += 1
        self.requests.append(Request(tuple(messages), call_id, agent, tuple(tools)))
        random = Random(f"{self._seed} {msgspec.json.encode(list(messages)).decode()}")
        call = ModelCall(self.name, self.provider, call_id, agent)
        reason = None
        try:
            yield call.started()
            for step in self._steps(messages, random):
                match step:
                    case Wait(seconds):
                        await self._sleep(seconds)
                    case Stall():
                        await asyncio.Event().wait()
                    case Fail(message, code, retryable):
                        self.failed += 1
                        raise RunFailed(message, code=code, retryable=retryable)
                    case Finish(reason):
                        break
                    case ReportUsage():
                        if event := call.usage(msgspec.structs.asdict(step)):
                            yield event
                    case Say() | Think() | CallTool():
                        for event in _events(step, call, random):
                            await self._sleep(self._delay * random.uniform(0.5, 1.5))
                            yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.stopped += 1
            raise
        yield call.finished(reason or ("tool_calls" if call.tools else "stop"))

    async def close(self) -> None:
        """Nothing to give back."""

    def _steps(self, messages: Sequence[Message], random: Random) -> Sequence[Step]:
        if self._script is None:
            return _improvise(messages, random)
        return self._script(messages) if callable(self._script) else self._script


def chunks(text: str, random: Random) -> Iterator[str]:
    """`text` in pieces of about a token each: words with the space before them, long words cut where it happens."""
    for token in _TOKEN.findall(text):
        rest: str = token
        while len(rest) > _LONG:
            cut = random.randint(3, 6)
            yield rest[:cut]
            rest = rest[cut:]
        yield rest


def _events(step: Say | Think | CallTool, call: ModelCall, random: Random) -> Iterator[Event]:
    match step:
        case Say(text):
            yield from map(call.text, chunks(text, random))
        case Think(text):
            yield from map(call.reasoning, chunks(text, random))
        case CallTool(name, arguments, tool_call_id):
            event = call.tool_call(name, tool_call_id)
            yield event
            text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
            for chunk in chunks(text, random):
                yield call.tool_args(event.data["call_id"], chunk)


def _improvise(messages: Sequence[Message], random: Random) -> list[Step]:
    asked = [text_of(message.get("content")) for message in messages if message["role"] == "user"]
    reasoning, answer = compose(asked[-1] if asked else "", random)
    read = sum(len(text_of(message.get("content"))) for message in messages)
    usage = ReportUsage(
        input_tokens=read // _TOKEN_LENGTH + len(messages),
        output_tokens=(len(reasoning) + len(answer)) // _TOKEN_LENGTH,
        reasoning_tokens=len(reasoning) // _TOKEN_LENGTH,
    )
    return [Think(reasoning), Say(answer), usage]
