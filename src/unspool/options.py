"""The settings of a manager, with their units and defaults, and the hooks of an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from unspool.content import Snapshot
from unspool.errors import InvalidArgument
from unspool.jobs import Job, Limits

JobHook = Callable[[Job], Awaitable[None]]
ContentHook = Callable[[Job, Snapshot], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a manager behaves. Seconds, counts or bytes; every figure is a bound.

    Raises InvalidArgument, naming the field, for a figure that makes no sense.
    """

    lease: float = 10.0
    """Seconds for which an owner may stay silent before it counts as dead; renewed at every third of it."""
    abort_grace: float = 2.0
    """Seconds that a stopped run has for its clean-up before it is fenced off."""
    retention: float = 3600.0
    """Seconds for which an ended generation is kept."""
    completed_retention: float | None = None
    """The same for successful ones; None: as the others, 0: until the next sweep."""
    max_jobs: int = 10_000
    """Generations that the memory back end keeps; ended ones make room, and then creation is refused."""
    max_active_per_user: int = 0
    """Generations that one user may have running at once; 0: any number. Users are told which ones run."""
    max_active_per_account: int = 0
    """The same for an account of the ledger."""
    backlog: int = 256
    """Events that a run may be ahead of the store before `emit` waits."""
    window: int = 1024
    """Records that a tail keeps at hand for its viewers; older ones are read from the store."""
    window_bytes: int = 1024 * 1024
    """The same in bytes of event JSON."""
    log_records: int = 200_000
    """Records of one log that are kept; older ones are folded into a checkpoint and trimmed."""
    checkpoint_every: int = 1000
    """Records between two checkpoints of a log, at least; a long log waits for an eighth of its length."""
    poll: float = 1.0
    """Seconds between two looks at the logs that others write, which backs up lost hints, and at live sources."""
    sweep: float = 1.0
    """Seconds between two sweeps: expired leases, stalls, retention."""
    drain: float = 5.0
    """Seconds that running generations may go on after `stop`; then they are interrupted."""
    resumes: int = 3
    """Times that a resumable run is gone on with after its owner was lost; then it has failed."""
    resume_wait: float = 60.0
    """Seconds that such a run waits for a replica that knows its name, before another one says that it is lost."""
    hook_timeout: float = 10.0
    """Seconds that a hook may take."""
    limits: Limits = field(default_factory=Limits)
    """The bounds of a generation that is started without its own."""

    def __post_init__(self) -> None:
        for name in ("lease", "poll", "sweep", "hook_timeout"):
            if getattr(self, name) <= 0:
                raise InvalidArgument(f"{name} must be more than 0 seconds, not {getattr(self, name)}")
        for name in ("resumes", "max_active_per_user", "max_active_per_account"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("abort_grace", "retention", "drain", "resume_wait"):
            if getattr(self, name) < 0:
                raise InvalidArgument(f"{name} must be 0 seconds or more, not {getattr(self, name)}")
        for name in ("max_jobs", "backlog", "window", "window_bytes", "log_records", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.log_records < self.checkpoint_every:
            raise InvalidArgument(
                "log_records must be at least checkpoint_every: what is trimmed must be in a checkpoint"
            )
        if self.completed_retention is not None and self.completed_retention < 0:
            raise InvalidArgument(f"completed_retention must be 0 seconds or more, not {self.completed_retention}")


@dataclass(slots=True)
class Hooks:
    """What an application may do at certain moments. Each is a list; one that fails is logged and stops no other."""

    first_viewer: list[JobHook] = field(default_factory=list[JobHook])
    """The count of viewers on this replica rose from zero."""
    all_viewers_left: list[ContentHook] = field(default_factory=list[ContentHook])
    """It fell to zero while the generation is active; gets the content so far."""
    save_partial: list[ContentHook] = field(default_factory=list[ContentHook])
    """Before a generation is sealed as aborted or failed. One that fails turns an abort into `save_failed`."""
    settled: list[ContentHook] = field(default_factory=list[ContentHook])
    """After the seal, on the replica that sealed or replaced it; the job carries the outcome."""
