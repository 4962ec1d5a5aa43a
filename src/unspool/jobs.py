"""Jobs: the stored state of a generation, its status table, its lease.

The law, whole: a generation is `running` or `requires_action` until one trigger out of the four that seal it wins;
then its status never changes again. `TRANSITIONS` is that law as data, and the only place where it is written.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from enum import Enum, StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote

import msgspec

from unspool.errors import InvalidArgument
from unspool.events import Record, check_depth, encode_data


class Status(StrEnum):
    """How a generation stands: `requires_action` while it waits for a person; the last four are for good."""

    RUNNING = "running"
    REQUIRES_ACTION = "requires_action"
    COMPLETE = "complete"
    ERROR = "error"
    ABORTED = "aborted"
    REPLACED = "replaced"

    @property
    def settled(self) -> bool:
        return self not in ACTIVE


ACTIVE: Final = frozenset({Status.RUNNING, Status.REQUIRES_ACTION})


class Trigger(StrEnum):
    """What may change a status. The four that seal bear the names of the terminal events."""

    PAUSE = "pause"
    RESUME = "resume"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"
    REPLACED = "replaced"


_SEALS: Final[Mapping[Trigger, Status]] = {
    Trigger.COMPLETED: Status.COMPLETE,
    Trigger.FAILED: Status.ERROR,
    Trigger.ABORTED: Status.ABORTED,
    Trigger.REPLACED: Status.REPLACED,
}

TRANSITIONS: Final[Mapping[tuple[Status, Trigger], Status]] = MappingProxyType(
    {
        (Status.RUNNING, Trigger.PAUSE): Status.REQUIRES_ACTION,
        (Status.REQUIRES_ACTION, Trigger.RESUME): Status.RUNNING,
        **{(active, trigger): sealed for active in ACTIVE for trigger, sealed in _SEALS.items()},
    }
)


def transition(status: Status, trigger: Trigger) -> Status | None:
    """The status after `trigger`, or None where the table forbids it."""
    return TRANSITIONS.get((status, trigger))


_MAX_ID: Final = 256


def check_id(name: str, value: str) -> None:
    """Raises InvalidArgument for a name that cannot travel in URLs, headers and keys."""
    if not isinstance(value, str) or not 1 <= len(value) <= _MAX_ID or not value.isascii() or not value.isprintable():
        raise InvalidArgument(f"{name} must be 1 to {_MAX_ID} printable ASCII characters")


_RESERVED: Final = "§"
"""What the tenants of logs that are no generations begin with (`durable/names.py`)."""


def check_tenant(tenant: str | None) -> None:
    """Raises InvalidArgument for a tenant that cannot be part of a name. An empty one is none: say None instead."""
    if tenant is None:
        return
    if not isinstance(tenant, str) or not tenant or not tenant.isprintable() or tenant.startswith(_RESERVED):
        raise InvalidArgument(f"tenant must be printable, not empty, and not begin with {_RESERVED}; None: no tenant")
    if len(quote(tenant, safe="")) > _MAX_ID:
        raise InvalidArgument(f"tenant must be at most {_MAX_ID} characters long when it is percent-encoded")


def stream_name(stream_id: str, tenant: str | None) -> str:
    """The name under which stores, hints, the ledger and logs know a stream: no two tenants share one.

    Without a tenant it is the stream's id. With one it is `@{tenant}/{stream_id}`, the tenant percent-encoded. An id
    without a tenant that begins with `@` becomes `@/{stream_id}`, so that no id is another tenant's name. Raises
    InvalidArgument for an empty tenant.
    """
    if tenant is None:
        return f"@/{stream_id}" if stream_id.startswith("@") else stream_id
    return _scope(tenant) + stream_id


@lru_cache(maxsize=1024)
def _scope(tenant: str) -> str:
    if not tenant:
        raise InvalidArgument("tenant must not be empty; None: no tenant")
    return f"@{quote(tenant, safe='')}/"


def stream_of(name: str) -> tuple[str, str | None]:
    """The stream's id and its tenant: the inverse of `stream_name`."""
    if not name.startswith("@"):
        return name, None
    tenant, _, stream_id = name[1:].partition("/")
    return stream_id, unquote(tenant) or None


class _Numbered(NamedTuple):
    stream_id: str
    generation: int


class GenerationKey(_Numbered):
    """The identity of a generation: its stream, and its number there (1, 2, 3 …, never reused).

    `stream_id` is the stream's internal name, which its tenant is part of: see `stream_name`. Clients know it by
    `Job.stream_id`. `log`: the token of its creation, as far as it is known here. A store that has lost what it had
    accepted may give a number again: what is done under a key that has a log is never done to another one. It takes no
    part in comparisons, since a replica holds one generation of a number at a time.
    """

    log: str = ""

    @classmethod
    def of(cls, stream_id: str, generation: int, log: str) -> GenerationKey:
        key = cls(stream_id, generation)
        key.log = log
        return key

    def is_other(self, log: str) -> bool:
        """Check whether this is the token of another generation of the same number."""
        return log != self.log and bool(log and self.log)

    def __str__(self) -> str:
        return f"{self.stream_id}/{self.generation}"


def call_id(key: GenerationKey, agent: str, step: str, attempt: int | None = None) -> str:
    """The id of a model call; without an attempt, what the ids of all of a step's begin with.

    No two calls share one, whatever streams, agents and steps are called.
    """
    parts = (part.replace("%", "%25").replace("/", "%2F") for part in (agent, step))
    return "/".join((str(key), *parts, "" if attempt is None else str(attempt)))


class Owner(NamedTuple):
    """Whose a stream is. Both None: nobody's in particular (an application without users)."""

    user: str | None = None
    tenant: str | None = None


class Anyone(Enum):
    """The type of ANYONE."""

    ANYONE = "anyone"


ANYONE: Final = Anyone.ANYONE
"""For trusted code, in the place of a user: any owner within the tenant. A value that no client can name."""

User = str | Anyone | None


def owner_of(user: User, tenant: str | None) -> Owner | None:
    """Whom a verb is for; None: trusted code, no user is to be checked. Raises InvalidArgument."""
    check_tenant(tenant)
    return None if isinstance(user, Anyone) else Owner(user, tenant)


def stamp(generation: int, log: str) -> str:
    """The number of a generation with the name of its log, so that no other log has the same."""
    return f"{generation}-{log}" if log else str(generation)


def new_stream_id() -> str:
    """A fresh stream id, for applications that have no name of their own for a conversation."""
    return secrets.token_urlsafe(12)


class Lease(msgspec.Struct, frozen=True):
    """The right to write a log: who has it, the epoch that fences it, until when (store's clock, Unix seconds)."""

    replica: str
    epoch: int
    expires_at: float


def is_over(left: float, lease: float) -> bool:
    """Whether a lease of so many seconds has run out, with so many left by the store's clock.

    One with more left than was ever granted was granted before that clock was put back, and was not renewed since.
    """
    return left <= 0 or left > lease * 9 / 8


class AbortRequest(msgspec.Struct, frozen=True):
    """A Stop that was asked for: by whom, why, when (store's clock, Unix seconds)."""

    by: str
    reason: str | None
    at: float


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one generation; 0 switches a bound off.

    `stall`: seconds without an event before it is aborted. `duration`: seconds in all before it is aborted.
    `log_bytes`: bytes of event JSON before it fails. Raises InvalidArgument, naming the field, for anything else.
    """

    stall: float = 600.0
    duration: float = 0.0
    log_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, whole = getattr(self, name), name == "log_bytes"
            if not isinstance(value, int if whole else int | float) or not 0 <= value < math.inf:
                unit = "bytes" if whole else "seconds"
                raise InvalidArgument(f"{name} must be 0 or more {unit}, not {value!r}; 0 switches the bound off")


class Task(msgspec.Struct, frozen=True):
    """A run by name. `args`: JSON. `resume`: whoever knows the name may go on with it when its owner is lost."""

    name: str
    args: dict[str, Any]
    resume: bool = False


class Whole(dict[str, Any]):
    """An object that a change sets as a whole, in the place of what was there."""


def patched(value: Any, patch: Any) -> Any:
    """A value after a JSON merge patch (RFC 7396): objects are merged key by key, and None removes a key."""
    if not isinstance(patch, dict):
        return patch
    if isinstance(patch, Whole):
        return dict(patch)
    changes = cast("Mapping[str, Any]", patch)
    merged: dict[str, Any] = dict(cast("Mapping[str, Any]", value)) if isinstance(value, dict) else {}
    for name, change in changes.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = patched(merged.get(name), change)
    return merged


def chained(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """One change that does what two do, one after the other. An object that follows on None stands alone."""
    both = dict(first)
    for name, change in then.items():
        before = both.get(name)
        if not isinstance(change, dict) or isinstance(change, Whole) or name not in both:
            both[name] = change
        elif isinstance(before, dict) and not isinstance(before, Whole):
            both[name] = chained(cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", change))
        else:
            both[name] = Whole(patched(before, change))
    return both


class Metadata(msgspec.Struct, frozen=True):
    """What a chat product keeps about a turn. None: not known, or cleared. 0 is a value.

    `title`, `conversation_id`, `user_message` (with its `id`), `response_id` and `sender` come back in the resume state
    and in the record of a Stop. `extra` is for what is the application's own; a change of it is a JSON merge patch. The
    rest is only kept.
    """

    title: str | None = None
    conversation_id: str | None = None
    user_message: dict[str, Any] | None = None
    response_id: str | None = None
    sender: str | None = None
    endpoint: str | None = None
    icon_url: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    extra: dict[str, Any] | None = None

    @classmethod
    def of(cls, fields: Mapping[str, Any] | None) -> Metadata:
        """From what a caller gave. Raises InvalidArgument, naming the field that is unknown or of the wrong type."""
        try:
            known = check_depth(encode_data(dict(fields or {}), where="metadata"), where="metadata")
            found = msgspec.json.decode(known, type=_StrictMetadata)
        except msgspec.ValidationError as error:
            raise InvalidArgument(
                f"metadata is not valid: {error}; fields are {', '.join(cls.__struct_fields__)}, and what is your own "
                "goes into 'extra'"
            ) from error
        return Metadata(*msgspec.structs.astuple(found))  # what is read from a store is equal to it

    @classmethod
    def changes(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Checked copies of exactly the given fields, for a change; None clears one, and `extra` is merged by key."""
        checked = cls.of(fields)
        return {name: getattr(checked, name) for name in fields}


class _StrictMetadata(Metadata, frozen=True, forbid_unknown_fields=True):
    pass


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The stored state of one generation, as it was when it was read. Times are Unix seconds of the store's clock.

    `stream_id`: as its clients know it, among the streams of its `tenant`; `key` holds the internal name instead.
    `active_at`: its last append, to within a second or so. `first_offset`, `last_offset`: the records that are kept.
    `token`: what tells it from any other, also from one of the same number in a store that has lost it. `abort`: the
    Stop that was asked for. `task`: what runs, where it runs by name. `account`: who pays for its model calls.
    `synced`: a viewer was given the snapshot. `terminal`: the sealing record, there as soon as the status is settled.
    """

    stream_id: str
    generation: int
    status: Status
    lease: Lease
    created_at: float
    active_at: float
    user: str | None = None
    tenant: str | None = None
    settled_at: float | None = None
    first_offset: int = 1
    last_offset: int = 0
    request_id: str | None = None
    token: str = ""
    abort: AbortRequest | None = None
    metadata: Metadata = Metadata()
    limits: Limits = Limits()
    task: Task | None = None
    account: str | None = None
    synced: bool = False
    terminal: Record | None = None
    attached: bool = False
    """The call that answered this attached to a generation that existed, by its request id; never stored."""

    @property
    def key(self) -> GenerationKey:
        return GenerationKey.of(stream_name(self.stream_id, self.tenant), self.generation, self.token)

    @property
    def label(self) -> str:
        """The generation as its clients may see it: unique within its tenant."""
        return f"{self.stream_id}/{self.generation}"

    @property
    def owner(self) -> Owner:
        return Owner(self.user, self.tenant)

    @property
    def log(self) -> str:
        """The name of the log for clients: with it a position never goes on in another log of the same number, as after
        a store was lost with all its replicas. Empty for a job of an older version."""
        return self.token[:8]

    @property
    def stamp(self) -> str:
        """The generation in ids that clients keep: its number, and the name of its log where it has one."""
        return stamp(self.generation, self.log)

    @property
    def settled(self) -> bool:
        return self.status not in ACTIVE

    @property
    def holds_request(self) -> bool:
        """Whether a start under its request id attaches to it.

        One that failed before it had said anything, and may be retried, gives its id back: nothing was done under it.
        """
        terminal = self.terminal
        return terminal is None or terminal.offset > 1 or not terminal.data.get("retryable")

    def __repr__(self) -> str:
        return f"<Job {self.key} {self.status} last={self.last_offset} epoch={self.lease.epoch}>"
