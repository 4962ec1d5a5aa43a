"""A stream as people read it in a terminal: text as it comes, reasoning dim, tools as lines, an end that says how."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from unspool import events
from unspool.cli.output import visible
from unspool.client import Received

Json = dict[str, Any]

_SHOWN: Final = 200
"""Characters of a tool's output or a message that a line shows."""


class Transcript:
    """Writes events to a console. On a terminal, control characters are shown instead of obeyed; a pipe gets the text
    as it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._block: tuple[str, ...] | None = None  # what the current line belongs to
        self._line_open = False
        self._text: list[str] = []  # all answer text written, to go on exactly after a snapshot
        self._tools: dict[str, str] = {}
        self.usage: list[Json] = []

    def show(self, event: Received) -> None:
        """Write one event. Types without a form for people are passed over."""
        form = _FORMS.get(event.type)
        if form is not None:
            form(self, event.data)

    def end_line(self) -> None:
        """Begin what follows on a line of its own."""
        if self._line_open:
            self._console.print()
        self._line_open = False
        self._block = None

    def _write(self, text: str, style: str = "") -> None:
        if not text:
            return
        shown = visible(text) if self._console.is_terminal else text
        if self._console.is_terminal:
            self._console.print(Text(shown, style=style), end="")
        else:
            self._console.file.write(shown)
        self._console.file.flush()
        self._line_open = not text.endswith("\n")

    def _line(self, text: str, style: str = "") -> None:
        self.end_line()
        self._write(_short(text) + "\n", style)

    def _grow(self, kind: str, data: Json, style: str) -> None:
        block = (kind, str(data.get("agent") or ""), str(data.get("part_id") or ""))
        if self._block is None or self._block[:2] != block[:2]:
            self.end_line()
            if block[1]:
                self._write(f"{block[1]}: ", "bold cyan")
        elif self._block != block:
            self.end_line()
        self._block = block
        self._write(str(data.get("text", "")), style)

    def _answer(self, data: Json) -> None:
        self._text.append(str(data.get("text", "")))
        self._grow("text", data, "")

    def _reasoning(self, data: Json) -> None:
        self._grow("reasoning", data, "dim italic")

    def _tool_call(self, data: Json) -> None:
        call_id, name = str(data.get("call_id")), str(data.get("name"))
        self._tools[call_id] = name
        self.end_line()
        arguments = data.get("arguments")
        self._write(f"→ {name} {_short(_text_of(arguments))}".rstrip() + " ", "cyan")
        # The arguments may still be streaming: the line stays open for them.
        self._block = ("arguments", call_id)

    def _tool_arguments(self, data: Json) -> None:
        call_id = str(data.get("call_id"))
        if self._block != ("arguments", call_id):
            self.end_line()
            self._write(f"→ {self._tools.get(call_id, call_id)} … ", "cyan")
            self._block = ("arguments", call_id)
        self._write(str(data.get("text", "")).replace("\n", " "), "cyan")

    def _tool_result(self, data: Json) -> None:
        self._line(f"← {self._name_of(data)} {_text_of(data.get('output'))}", "cyan")

    def _tool_error(self, data: Json) -> None:
        self._line(f"✗ {self._name_of(data)} {data.get('message')}", "red")

    def _name_of(self, data: Json) -> str:
        call_id = str(data.get("call_id"))
        return self._tools.get(call_id, call_id)

    def _tool_auth(self, data: Json) -> None:
        # Not shortened: half a URL is of no use.
        self.end_line()
        self._write(f"! {self._name_of(data)} wants you to log in: {data.get('url')}\n", "yellow")

    def _approval(self, data: Json) -> None:
        what = data.get("what") or data.get("action_id")
        self._line(f"? waits for approval: {_text_of(what)}", "yellow")

    def _resolved(self, data: Json) -> None:
        self._line(f"? {data.get('action_id')}: {data.get('decision')}", "yellow")

    def _agent(self, data: Json) -> None:
        self._line(f"· {data.get('agent')}: {data.get('message') or ''}", "dim")

    def _steer(self, data: Json) -> None:
        self._line(f"> {data.get('text')}", "bold")

    def _created(self, data: Json) -> None:
        asked = data.get("user_message")
        if isinstance(asked, dict) and asked.get("text"):  # pyright: ignore[reportUnknownMemberType]
            self._line(f"> {asked['text']}", "bold")

    def _attachment(self, data: Json) -> None:
        self._line(f"+ {data.get('title') or data.get('media_type') or 'file'} {data.get('url') or ''}", "blue")

    def _usage(self, data: Json) -> None:
        self.usage.append(data)

    def _sync(self, data: Json) -> None:
        """A snapshot: go on where the text stopped, or show all of it when it cannot be told where that was."""
        self.usage = list(data.get("usage") or [])
        text, written = str(data.get("text") or ""), "".join(self._text)
        if written and text.startswith(written):
            rest = text[len(written) :]
            self._text.append(rest)
            self._write(rest)
            return
        if written:
            self._line("(the log was trimmed; the answer so far, from its beginning:)", "dim")
        self._text = []
        self._created(data)
        parts: list[Json] = data.get("content") or []
        for part in parts:
            self._part(part)

    def _part(self, part: Json) -> None:
        match part.get("type"):
            case "text":
                self._answer(part)
            case "reasoning":
                self._reasoning(part)
            case "tool":
                self._tool_call(part)
                if part.get("status") == "done":
                    self._tool_result(part)
                elif part.get("status") == "error":
                    self._tool_error({**part, "message": part.get("error")})
            case "agent":
                self._agent(part)
            case "user":
                self._steer(part)
            case "file" | "source":
                self._attachment(part)
            case _:
                pass  # an error is what the end of the stream says


_FORMS: Final[dict[str, Callable[[Transcript, Json], None]]] = {
    events.CREATED: Transcript._created,
    events.TEXT_DELTA: Transcript._answer,
    events.REASONING_DELTA: Transcript._reasoning,
    events.TOOL_CALL: Transcript._tool_call,
    events.TOOL_ARGS_DELTA: Transcript._tool_arguments,
    events.TOOL_RESULT: Transcript._tool_result,
    events.TOOL_ERROR: Transcript._tool_error,
    events.TOOL_AUTH: Transcript._tool_auth,
    events.APPROVAL_REQUESTED: Transcript._approval,
    events.APPROVAL_RESOLVED: Transcript._resolved,
    events.AGENT_UPDATE: Transcript._agent,
    events.STEER_APPLIED: Transcript._steer,
    events.FILE: Transcript._attachment,
    events.SOURCE: Transcript._attachment,
    events.USAGE: Transcript._usage,
    events.SYNC: Transcript._sync,
}


def _text_of(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
