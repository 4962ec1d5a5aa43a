"""The four ways in which a generation ends, as data for its terminal record. Pure functions, no I/O."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unspool import events
from unspool.content import Snapshot
from unspool.events import EVENT_BYTES, encode_data
from unspool.jobs import Job

DEFAULT_TITLE: Final = "New Chat"
DEFAULT_SENDER: Final = "AI"

OWNER_LOST: Final = "owner_lost"
INTERRUPTED: Final = "interrupted"
SAVE_FAILED: Final = "save_failed"

REASON_CHARS: Final = 1000
"""Characters that the reason of a Stop may have, and that the message of a failure is cut to."""


class Completed(msgspec.Struct, frozen=True):
    """The run came to its end. `message`: what the application wants every viewer to get as the final message."""

    finish_reason: str = "stop"
    message: dict[str, Any] | None = None


class Failed(msgspec.Struct, frozen=True):
    """The run failed; `code` for machines, `message` for people, `retryable`: the same request may do better."""

    code: str
    message: str
    retryable: bool = False


class Aborted(msgspec.Struct, frozen=True):
    """Stopped `by` a user, the system, or the owner."""

    by: str
    reason: str | None = None


Verdict = Completed | Failed | Aborted

_KEPT: Final = ("id", "parent_id", "sender")


def terminal(verdict: Verdict, job: Job, snapshot: Snapshot) -> tuple[str, bytes]:
    """Type and payload of the record that seals with this verdict; the payload has at most `EVENT_BYTES`."""
    match verdict:
        case Completed():
            data: dict[str, Any] = {"finish_reason": verdict.finish_reason}
            if verdict.message is not None:
                data["message"] = verdict.message
            return events.COMPLETED, encode_data(data)
        case Failed():
            return events.FAILED, failed(verdict)
        case Aborted():
            data = _aborted(verdict, job, snapshot)
            for without in ("response_message", "request_message"):
                if len(payload := encode_data(data)) <= EVENT_BYTES:
                    break
                data[without] = _truncated(data[without])
            else:
                payload = encode_data(data)
            return events.ABORTED, payload


def failed(verdict: Failed) -> bytes:
    """Payload of a `failed` record. An application may have put a whole traceback into the message."""
    return encode_data(
        {"code": verdict.code[:REASON_CHARS], "message": _cut(verdict.message), "retryable": verdict.retryable}
    )


def _cut(text: str) -> str:
    return text if len(text) <= REASON_CHARS else f"{text[:REASON_CHARS]}…"


def _truncated(message: dict[str, Any] | None) -> dict[str, Any] | None:
    """A message without what makes it larger than an event may be: the log and the job have it all."""
    if message is None:
        return None
    kept = {name: value for name, value in message.items() if isinstance(value, bool) or name in _KEPT}
    return {**kept, "content": None, "text": None, "truncated": True}


def is_early(job: Job, snapshot: Snapshot) -> bool:
    """Nothing was generated and no turn exists: a client goes back to a new chat."""
    known = job.metadata
    return known.user_message is None and known.response_id is None and not snapshot.parts


def _aborted(verdict: Aborted, job: Job, snapshot: Snapshot) -> dict[str, Any]:
    known = job.metadata
    early = is_early(job, snapshot)
    data: dict[str, Any] = {
        "by": verdict.by[:REASON_CHARS],
        "reason": None if verdict.reason is None else _cut(verdict.reason),
        "early": early,
        "title": snapshot.title or known.title or DEFAULT_TITLE,
        "conversation_id": None,
        "request_message": None,
        "response_message": None,
    }
    if early:
        return data
    request_id = (known.user_message or {}).get("id")
    data["conversation_id"] = known.conversation_id or job.stream_id
    data["request_message"] = known.user_message
    data["response_message"] = {
        "id": known.response_id or (f"{request_id}_" if request_id else "aborted_"),
        "parent_id": request_id,
        "sender": known.sender or DEFAULT_SENDER,
        "content": snapshot.public().parts,
        "text": snapshot.text,
        "unfinished": True,
        "error": False,
    }
    return data
