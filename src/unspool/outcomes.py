"""The answers to Stop: typed, each with what the caller needs to show and to save."""

from __future__ import annotations

from typing import Any

import msgspec

from unspool.content import Snapshot
from unspool.events import Record
from unspool.jobs import Job, Status


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """`content`: message parts; `text`: their text, joined; `usage`: one entry for each model call; `final`: the
    terminal record."""

    content: list[dict[str, Any]] = []
    text: str = ""
    usage: list[dict[str, Any]] = []
    final: Record | None = None


class Stopped(_Outcome, frozen=True, kw_only=True):
    """The generation was running and is now sealed as aborted, with this content and usage."""

    job: Job
    ok = True


class AlreadySettled(_Outcome, frozen=True, kw_only=True):
    """It had ended before, or ended in another way first; `job.status` says how, and stays as it is."""

    job: Job
    ok = False

    @property
    def status(self) -> Status:
        return self.job.status


class SaveFailed(_Outcome, frozen=True, kw_only=True):
    """It is stopped, but its partial answer could not be saved; viewers were told. Abort again to try that again."""

    job: Job
    ok = False


class Unknown(_Outcome, frozen=True, kw_only=True):
    """There is no such generation, or it is not the caller's; nothing was created or changed."""

    job = None
    ok = False


AbortOutcome = Stopped | AlreadySettled | SaveFailed | Unknown


def outcome_of(
    kind: type[Stopped] | type[AlreadySettled] | type[SaveFailed], job: Job, snapshot: Snapshot
) -> AbortOutcome:
    return kind(job=job, content=snapshot.parts, text=snapshot.text, usage=snapshot.usage, final=job.terminal)
