"""The four ways in which a generation ends, as data for its terminal record. Pure functions, no I/O."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from unspool import events
from unspool.content import Snapshot
from unspool.jobs import Job

DEFAULT_TITLE: Final = "New Chat"
DEFAULT_SENDER: Final = "AI"

OWNER_LOST: Final = "owner_lost"
INTERRUPTED: Final = "interrupted"
SAVE_FAILED: Final = "save_failed"


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
    """Somebody stopped it: `by` a user, the system, or the owner."""

    by: str
    reason: str | None = None


Verdict = Completed | Failed | Aborted


def terminal(verdict: Verdict, job: Job, snapshot: Snapshot) -> tuple[str, dict[str, Any]]:
    """Type and data of the record that seals with this verdict."""
    match verdict:
        case Completed():
            data: dict[str, Any] = {"finish_reason": verdict.finish_reason}
            if verdict.message is not None:
                data["message"] = verdict.message
            return events.COMPLETED, data
        case Failed():
            return events.FAILED, msgspec.to_builtins(verdict)
        case Aborted():
            return events.ABORTED, _aborted(verdict, job, snapshot)


def without_content(data: dict[str, Any]) -> dict[str, Any]:
    """An `aborted` record whose content is larger than an event may be: the log and its snapshot have it all."""
    return {**data, "response_message": {**data["response_message"], "content": None, "text": None, "truncated": True}}


def is_early(job: Job, snapshot: Snapshot) -> bool:
    """Nothing was generated and no turn exists: a client goes back to a new chat."""
    known = job.metadata
    return known.user_message is None and known.response_id is None and not snapshot.parts


def _aborted(verdict: Aborted, job: Job, snapshot: Snapshot) -> dict[str, Any]:
    known = job.metadata
    early = is_early(job, snapshot)
    data: dict[str, Any] = {
        "by": verdict.by,
        "reason": verdict.reason,
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
