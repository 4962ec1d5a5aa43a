"""The server under the browser tests, in a process of its own: the first word of a message chooses what is answered."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Final, cast

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from unspool import Event, Generation, GenerationManager
from unspool.http.app import create_app
from unspool.http.auth import bearer
from unspool.http.requests import StartRequest
from unspool.http.server import serve
from unspool.providers.base import Message
from unspool.testing.model import CallTool, Fail, ReportUsage, Say, ScriptedModel, Stall, Step, Think, Wait

_LINES: Final = [
    f"Line {number} of a long answer: naïve café, 日本語, 🧵, **bold** and `code`.\n\n" for number in range(1, 41)
]
HELD: Final = Wait(-1.0)
"""A pause until the test lets the stream continue: see `Tab.let_continue`."""
_LONG: Final[Sequence[Step]] = [Say("".join(_LINES[:30])), HELD, Say("".join(_LINES[30:]).strip())]
MARKDOWN: Final = """\
# A heading

Some **bold**, *italic*, ~~gone~~ and `inline` text with a [link](https://example.org/a?b=c) in it.

- one
- two
  1. nested
  2. list

> Quoted words.

| Name | Count |
|:-----|------:|
| thread | 3 |
| spool | **14** |

```python
def reverse(items):
    return items[::-1]
```

---

The end.
"""
ATTACK: Final = """\
<img src=x onerror="window.pwned = 1">
<script>window.pwned = 2</script>
<svg onload="window.pwned = 3"></svg>

[click](javascript:window.pwned=4) [tab](java\tscript:window.pwned=5) [data](data:text/html,<script>1</script>)
<javascript:window.pwned=6> ![image](javascript:window.pwned=7) ![remote](http://tracker.invalid/pixel.png)
[quote](https://example.org/"onmouseover="window.pwned=8) [vb](vbscript:x) [safe](https://example.org/safe)

```html"><img src=x onerror="window.pwned=9">
</code></pre><img src=x onerror="window.pwned=10">
```

| <img src=x onerror="window.pwned=11"> | b |
|---|---|
| <iframe src="javascript:window.pwned=12"></iframe> | d |
"""
WIDE: Final = "word" * 200 + "\n\n```\n" + "wide " * 80 + "\n```\n\n" + "| cell " * 30 + "|\n" + "|---" * 30 + "|\n"
USAGE: Final = ReportUsage(input_tokens=412, output_tokens=1280, reasoning_tokens=96)
THOUGHT: Final = "First the outline, then the details. The reader wants an example more than a definition. " * 3

SCRIPTS: Final[Mapping[str, Sequence[Step]]] = {
    "held": [*_LONG, USAGE],
    "renamed": [*_LONG, USAGE],
    "stall": [Say("Some words, and then"), Stall()],
    "markdown": [Think(THOUGHT), Say(MARKDOWN), USAGE],
    "attack": [Think("<img src=x onerror='window.pwned=20'>"), Say(ATTACK), USAGE],
    "think": [Think(THOUGHT * 2), Stall()],
    "fail": [Say("It began well"), Fail("The model is overloaded.", code="overloaded", retryable=True)],
    "wide": [Say(WIDE), USAGE],
    "wait": [Wait(1.0), Say("Late."), USAGE],
}


def script(messages: Sequence[Message]) -> Sequence[Step]:
    asked = str(messages[-1]["content"])
    return SCRIPTS.get(asked.split()[0].lower(), [Say(f"You said: {asked}"), USAGE])


class Gates:
    """Where the streams wait that are held up, until the test says that they may continue."""

    def __init__(self) -> None:
        self._open: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._stream = ContextVar("stream", default="")

    def enter(self, stream: str) -> None:
        """Name the stream of the run that is under way in this task."""
        self._stream.set(stream)

    async def sleep(self, seconds: float) -> None:
        """Take that long, or, for `HELD`, wait until the stream may continue."""
        if seconds == HELD.seconds:
            await self._open[self._stream.get()].wait()
        else:
            await asyncio.sleep(seconds)

    async def open(self, request: Request) -> Response:
        self._open[request.path_params["stream"]].set()
        return Response(status_code=204)


async def answer(generation: Generation, request: StartRequest, model: ScriptedModel) -> None:
    asked = str(request.messages[-1]["content"])
    if asked.startswith("tools"):
        await use_tools(generation)
        if "stall" in asked:
            await generation.relay(stalled(generation))
    if asked.startswith("renamed"):
        known = {"id": f"{generation.key}/user", "text": asked}
        await generation.emit("created", {"user_message": known})
    messages = cast(list[Message], request.messages)
    await generation.relay(model.stream(messages, call_id=generation.call_id()))


def stalled(generation: Generation) -> AsyncIterator[Event]:
    return ScriptedModel([CallTool("read_page", {"url": "https://example.org"}), Stall()]).stream(
        [{"role": "user", "content": ""}], call_id=generation.call_id(step="stall")
    )


async def use_tools(generation: Generation) -> None:
    await generation.emit("title", {"text": "Weather and words"})
    await generation.reasoning(THOUGHT)
    await generation.tool_call("c1", "get_weather", {"city": "Lisbon", "unit": "celsius"})
    await generation.tool_result("c1", {"temperature": 21, "sky": "clear"})
    await generation.text("It is **21 °C** in Lisbon. Let me look for a forecast too.")
    await generation.tool_call("c2", "get_forecast", {"city": "Lisbon", "days": 3})
    await generation.tool_error("c2", "The forecast service did not answer in time.")
    await generation.emit("source", {"url": "https://example.org/weather", "title": "Weather today"})
    await generation.emit("source", {"url": "javascript:window.pwned=30", "title": "A bad source"})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.002)
    parser.add_argument("--token")
    given = parser.parse_args()
    gates = Gates()
    model = ScriptedModel(script, delay=given.delay, sleep=gates.sleep)

    async def run(generation: Generation, request: StartRequest) -> None:
        gates.enter(generation.stream_id)
        await answer(generation, request, model)

    def ready(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    authenticate = bearer([given.token]) if given.token else None
    about = {"model": "scripted", "note": "A scripted model answers here."}
    app = create_app(GenerationManager(), run=run, authenticate=authenticate, about=about)
    app.router.routes.insert(0, Route("/continue/{stream}", gates.open, methods=["POST"]))
    serve(app, port=given.port, drain=0.0, authenticated=authenticate is not None, ready=ready)


if __name__ == "__main__":
    main()
