"""What a client needs to show a generation as it stands: the resume state, and the `sync` record that carries it."""

from __future__ import annotations

from typing import Any

import msgspec

from unspool.content import Snapshot
from unspool.events import SYNC, Record, encode_data
from unspool.jobs import Job, Status


class ResumeState(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a generation up to `offset`, and what is known of its turn. A copy; nothing internal is in it."""

    generation: int
    offset: int
    status: Status
    content: list[dict[str, Any]]
    text: str
    steps: list[dict[str, Any]]
    usage: list[dict[str, Any]]
    prompts: list[dict[str, Any]]
    approvals: list[dict[str, Any]]
    steering: list[dict[str, Any]]
    title: str | None
    user_message: dict[str, Any] | None
    response_id: str | None
    conversation_id: str | None
    sender: str | None


def resume_state(job: Job, snapshot: Snapshot) -> ResumeState:
    public = snapshot.public()
    known = job.metadata
    return ResumeState(
        generation=job.generation,
        offset=public.offset,
        status=job.status,
        content=public.parts,
        text=public.text,
        steps=public.steps,
        usage=public.usage,
        prompts=public.prompts,
        approvals=public.approvals,
        steering=public.steering,
        title=known.title if public.title is None else public.title,
        user_message=known.user_message,
        response_id=known.response_id,
        conversation_id=known.conversation_id,
        sender=known.sender,
    )


def sync_record(job: Job, snapshot: Snapshot, reason: str | None) -> Record:
    """A snapshot in the place of records 1..offset. `reason`: why it was sent unasked (`trimmed`)."""
    payload = encode_data(resume_state(job, snapshot))
    if reason is not None:
        payload = b'%b,"reason":%b}' % (payload[:-1], encode_data(reason))
    return Record(snapshot.offset, SYNC, payload)
