"""A subscription as it stands, and what may happen to it. Plain functions, no I/O.

It links streams, and remembers of each how far its worker has come. As long as one of them has more it wants a *wake*:
one at a time, numbered, with an id. A wake is held by a worker, until that is done with it, gives it back, or lets its
lease run out; then what is left wants the next one. Whoever holds an older wake is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from unspool.errors import UnspoolError
from unspool.jobs import Owner

LINKS: Final = 1000
"""Streams that one subscription links at most; those that match its pattern beyond that do not wake anybody."""
LEASE: Final = (1_000, 600_000)


_owner: Final = msgspec.json.Decoder(tuple[str | None, str | None])


class Fenced(UnspoolError):
    """This wake is over, or never was: another one may be under way."""

    code, status, fault = "FENCED", 409, "caller"


class AlreadyClaimed(UnspoolError):
    """Another worker has it. Details: `current_holder`, `generation`."""

    code, status, fault = "ALREADY_CLAIMED", 409, "caller"


class NothingPending(UnspoolError):
    """There is nothing to do."""

    code, status, fault = "NOTHING_PENDING", 409, "caller"


class SubscriptionConflict(UnspoolError):
    """There is a subscription of this id, with another configuration."""

    code, status, fault = "SUBSCRIPTION_CONFLICT", 409, "caller"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription is created with; the same again is the same subscription."""

    type: Literal["webhook", "pull-wake"]
    pattern: str | None = None
    streams: tuple[str, ...] = ()
    url: str | None = None
    wake_stream: str | None = None
    lease_ttl_ms: int = 30_000
    description: str | None = None


class Link(msgspec.Struct, frozen=True):
    """A stream of a subscription. `acked`: the number up to which its worker is done."""

    acked: int
    glob: bool = False
    explicit: bool = False


class Ack(msgspec.Struct, frozen=True):
    """A worker is done with a stream up to a number."""

    stream: str
    number: int


class Wake(msgspec.Struct, frozen=True):
    """A wake under way. `tails`: how far its streams went when it was made. `holder`: who has it, until `until`."""

    id: str
    tails: dict[str, int]
    until: float
    holder: str | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """`base`: the address that its callbacks begin with. `secret`: what its tokens are made with."""

    id: str
    owner: Owner
    terms: Terms
    base: str
    secret: bytes
    created_at: float
    links: dict[str, Link] = {}
    generation: int = 0
    wake: Wake | None = None
    failures: int = 0
    retry_at: float = 0.0

    @property
    def lease(self) -> float:
        return self.terms.lease_ttl_ms / 1000

    def token(self) -> str:
        """What the holder of this wake shows."""
        assert self.wake is not None
        proof = hmac.new(self.secret, f"{self.generation}.{self.wake.id}".encode(), hashlib.sha256).hexdigest()
        return f"{base64.urlsafe_b64encode(msgspec.json.encode(self.owner)).decode()}.{proof}"

    def link_type(self, path: str) -> str:
        return "explicit" if self.links[path].explicit else "glob"


def owner_in(token: str) -> Owner:
    """Whose subscription a token is for; that it is a good one is for `check` to say. Raises Fenced."""
    try:
        return Owner(*_owner.decode(base64.urlsafe_b64decode(token.partition(".")[0].encode())))
    except (ValueError, msgspec.MsgspecError) as error:
        raise Fenced from error


def matches(pattern: str | None, path: str) -> bool:
    """Whether a path is meant: `*` is one segment or a part of one, `**` any number of them, at the end at least one.

    Not by a regular expression: a hostile pattern would make that one search for ever.
    """
    if pattern is None:
        return False
    parts = pattern.split("/")
    if parts[-1] == "**":
        parts.append("*")
    reached = _skipped(parts, {0})  # what the next segment may be
    for segment in path.split("/"):
        met = [at for at in reached if at < len(parts) and (parts[at] == "**" or _fits(parts[at], segment))]
        reached = _skipped(parts, {at if parts[at] == "**" else at + 1 for at in met})
    return len(parts) in reached


def _skipped(parts: Sequence[str], reached: set[int]) -> set[int]:
    """With what comes after a `**` that is no segment at all."""
    for at, part in enumerate(parts):
        if part == "**" and at in reached:
            reached.add(at + 1)
    return reached


def _fits(part: str, segment: str) -> bool:
    first, *rest = part.split("*")
    if not rest:
        return part == segment
    *middle, last = rest
    at, end = len(first), len(segment) - len(last)
    if at > end or not segment.startswith(first) or not segment.endswith(last):
        return False
    for one in middle:
        found = segment.find(one, at, end)
        if found < 0:
            return False
        at = found + len(one)
    return True


def linked(one: Subscription, tails: Mapping[str, int], *, explicit: bool) -> Subscription:
    """With these streams, each from its tail on; those that are linked already keep their place."""
    links = dict(one.links)
    for path, tail in tails.items():
        known = links.get(path)
        if known is None and (len(links) >= LINKS or path == one.terms.wake_stream):
            continue  # what it is told there must not wake it
        known = known or Link(tail)
        links[path] = Link(known.acked, glob=known.glob or not explicit, explicit=known.explicit or explicit)
    return msgspec.structs.replace(one, links=links)


def unlinked(one: Subscription, path: str) -> Subscription:
    """Without the explicit link to this stream; the pattern may still mean it."""
    known = one.links.get(path)
    if known is None or not known.explicit:
        return one
    links = {name: link for name, link in one.links.items() if name != path}
    if known.glob:
        links[path] = Link(known.acked, glob=True)
    return msgspec.structs.replace(one, links=links)


def pending(one: Subscription, tails: Mapping[str, int]) -> bool:
    """Whether a stream has more than its worker is done with."""
    return any(tails.get(path, 0) > link.acked for path, link in one.links.items())


def idle(one: Subscription, now: float) -> bool:
    """No wake is under way, or the lease of whoever has it has run out. A wake that waits to be claimed has none."""
    return one.wake is None or (now >= one.wake.until and (one.terms.type == "webhook" or one.wake.holder is not None))


def woken(one: Subscription, tails: Mapping[str, int], wake_id: str, now: float) -> Subscription:
    """With the next wake."""
    wake = Wake(wake_id, {path: tails.get(path, 0) for path in one.links}, now + one.lease)
    return msgspec.structs.replace(one, generation=one.generation + 1, wake=wake)


def claimed(one: Subscription, worker: str, tails: Mapping[str, int], now: float) -> Subscription:
    """The wake under way, in the hands of a worker. Raises AlreadyClaimed."""
    wake = one.wake
    assert wake is not None
    if wake.holder is not None and now < wake.until:
        raise AlreadyClaimed(current_holder=wake.holder, generation=one.generation)
    current = {path: tails.get(path, 0) for path in one.links}
    return msgspec.structs.replace(one, wake=Wake(wake.id, current, now + one.lease, worker))


def check(one: Subscription, token: str, wake_id: str, generation: int) -> None:
    """Raises Fenced unless this is the wake under way."""
    if one.wake is None or one.wake.id != wake_id or one.generation != generation:
        raise Fenced
    if not hmac.compare_digest(one.token().encode(), token.encode()):
        raise Fenced


def acked(one: Subscription, acks: Iterable[Ack], now: float, *, done: bool) -> Subscription:
    """With what the worker is done with; and with the whole wake, or for one more lease."""
    links = dict(one.links)
    for ack in acks:
        known = links.get(ack.stream)
        if known is not None and ack.number > known.acked:
            links[ack.stream] = msgspec.structs.replace(known, acked=ack.number)
    wake = one.wake
    assert wake is not None
    kept = None if done else msgspec.structs.replace(wake, until=now + one.lease)
    return msgspec.structs.replace(one, links=links, wake=kept, failures=0, retry_at=0.0)


def released(one: Subscription) -> Subscription:
    """The worker gives its wake back."""
    return msgspec.structs.replace(one, wake=None)


def failed(one: Subscription, pause: float, now: float) -> Subscription:
    """The webhook could not be reached; its wake lasts until the next try."""
    wake = one.wake
    assert wake is not None
    held = msgspec.structs.replace(wake, until=max(wake.until, now + pause + one.lease))
    return msgspec.structs.replace(one, failures=one.failures + 1, retry_at=now + pause, wake=held)


def snapshot_acks(wake: Wake) -> Sequence[Ack]:
    """Everything that a wake told of."""
    return [Ack(path, tail) for path, tail in wake.tails.items()]
