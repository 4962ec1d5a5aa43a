"""What must be true, kept in plain lists: the oracle of the machine in `test_manager_machine.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from unspool.content import Snapshot, fold
from unspool.events import DELTAS, Event, Record, encode_data
from unspool.jobs import Owner, Status, stream_of
from unspool.producer import _BREAKS, _CAPTURED

Entry = tuple[str, dict[str, Any], bool]
"""Type, data, internal."""


@dataclass(eq=False)
class Turn:
    """One generation: what its run emitted, and the records that the store was seen to hold.

    `stream`: the internal name of its stream.
    """

    stream: str
    number: int
    replica: int
    status: Status = Status.RUNNING
    emitted: list[Entry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    approvals: set[str] = field(default_factory=set)
    finish_reason: str = "stop"
    settled_at: float = 0.0
    _parts: int = 0
    _open: dict[str | None, tuple[str, str]] = field(default_factory=dict)

    @property
    def stream_id(self) -> str:
        """The stream as its owner names it."""
        return stream_of(self.stream)[0]

    @property
    def active(self) -> bool:
        return not self.status.settled

    @property
    def holds_request(self) -> bool:
        """Whether a start under its request id attaches to it: not when it failed before it said anything."""
        if self.status is not Status.ERROR or len(self.records) > 1:
            return True
        return not self.records[-1].data["retryable"]

    @property
    def content(self) -> Snapshot:
        """The fold of all that was recorded, the terminal record excepted."""
        return self.content_at(len(self.records))

    def content_at(self, offset: int) -> Snapshot:
        return fold(record for record in self.records[:offset] if not record.terminal)

    def shown(self, after: int, upto: int) -> list[Record]:
        """What a viewer gets between two positions."""
        return [record for record in self.records[after:upto] if not record.internal]

    def emit(self, event: Event) -> None:
        """Take in an event as a log must show it."""
        data = msgspec.json.decode(encode_data(event.data))
        internal = event.internal or data.get("internal") is True
        kind, agent = event.type, data.get("agent")
        if kind in DELTAS:
            data.pop("internal", None)
            if DELTAS[kind] == "part_id":
                data["part_id"] = self._place(kind, agent, data.get("part_id"))
        elif kind in _BREAKS:
            self._open.pop(agent, None)
        self.emitted.append((kind, data, internal))
        self._note(kind, data)

    def _place(self, kind: str, agent: str | None, part: str | None) -> str:
        """A delta without a part goes on with its agent's last one, unless something came between."""
        if part is None:
            opened = self._open.get(agent)
            if opened is not None and opened[0] == kind:
                part = opened[1]
            else:
                self._parts += 1
                part = f"p{self._parts}"
        self._open[agent] = (kind, part)
        return part

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        match kind:
            case "created":
                self.metadata |= {name: data[name] for name in _CAPTURED if name in data}
            case "title":
                self.metadata["title"] = data["text"]
            case "step.finished" if isinstance(data.get("finish_reason"), str):
                self.finish_reason = data["finish_reason"] or self.finish_reason
            case "approval.requested":
                self.approvals.add(data["action_id"])
                self.status = Status.REQUIRES_ACTION
            case "approval.resolved":
                self.approvals.discard(data["action_id"])
                if not self.approvals:
                    self.status = Status.RUNNING
            case _:
                pass

    def seal(self, status: Status, now: float) -> None:
        self.status, self.settled_at = status, now

    def check_log(self) -> None:
        """What the store holds is what was emitted, merged or not; then the terminal record, if it is over."""
        log = [(record.type, record.data, record.internal) for record in self.records if not record.terminal]
        assert merged(log) == merged(self.emitted)
        assert [record.offset for record in self.records] == list(range(1, len(self.records) + 1))
        assert [record.terminal for record in self.records[:-1]] == [False] * max(len(self.records) - 1, 0)
        ended = bool(self.records) and self.records[-1].terminal
        assert ended is not self.active
        if ended:
            self._check_terminal(self.records[-1])

    def _check_terminal(self, last: Record) -> None:
        data = last.data
        match self.status:
            case Status.COMPLETE:
                assert (last.type, data["finish_reason"]) == ("completed", self.finish_reason)
            case Status.ERROR:
                assert last.type == "failed"
                assert data["code"] in ("run_failed", "interrupted")
            case Status.ABORTED:
                assert last.type == "aborted"
                known = self.metadata.get("user_message") or self.metadata.get("response_id")
                assert data["early"] is (
                    self.metadata.get("user_message") is None
                    and self.metadata.get("response_id") is None
                    and not self.content.parts
                ), known
                if not data["early"]:
                    assert data["response_message"]["text"] == self.content.text
            case _:
                assert last.type == "replaced"
                assert data["by_generation"] == self.number + 1


def merged(entries: list[Entry]) -> list[Entry]:
    """The same with all neighbouring deltas of one part made one: the writer may merge, and need not."""
    found: list[Entry] = []
    for kind, data, internal in entries:
        if kind in DELTAS and found:
            last_kind, last, last_internal = found[-1]
            if (last_kind, last_internal) == (kind, internal) and {**last, "text": ""} == {**data, "text": ""}:
                found[-1] = (kind, {**last, "text": last["text"] + data["text"]}, internal)
                continue
        found.append((kind, data, internal))
    return found


@dataclass(eq=False)
class Stream:
    """A stream: whose it is, how far its numbers are used up, what is kept of it."""

    owner: Owner
    used: int = 0
    turns: dict[int, Turn] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)

    def holder(self, request_id: str | None) -> Turn | None:
        """The generation to which a start under this id attaches."""
        turn = self.turns.get(self.requests.get(request_id or "", 0))
        return turn if turn is not None and turn.holds_request else None

    @property
    def last(self) -> Turn | None:
        return self.turns.get(self.used)
