"""unspool: LLM generations that outlive the connection."""

from unspool.content import Fold, Snapshot, fold
from unspool.errors import (
    CapacityExceeded,
    ConfigurationError,
    Fenced,
    GenerationConflict,
    GenerationStopped,
    Gone,
    InsufficientBalance,
    InvalidArgument,
    InvalidEvent,
    InvalidPosition,
    NotFound,
    RunFailed,
    ShuttingDown,
    StoreUnavailable,
    TooManyGenerations,
    UnspoolError,
    ViewerReleased,
)
from unspool.events import Event, Record
from unspool.jobs import ANYONE, GenerationKey, Job, Lease, Limits, Metadata, Status, new_stream_id
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.outcomes import AbortOutcome, AlreadySettled, SaveFailed, Stopped, Unknown
from unspool.producer import Generation
from unspool.resume import ResumeState
from unspool.viewer import End, Viewer

__all__ = [
    "ANYONE",
    "AbortOutcome",
    "AlreadySettled",
    "CapacityExceeded",
    "ConfigurationError",
    "End",
    "Event",
    "Fenced",
    "Fold",
    "Generation",
    "GenerationConflict",
    "GenerationKey",
    "GenerationManager",
    "GenerationStopped",
    "Gone",
    "Hooks",
    "InsufficientBalance",
    "InvalidArgument",
    "InvalidEvent",
    "InvalidPosition",
    "Job",
    "Lease",
    "Limits",
    "Metadata",
    "NotFound",
    "Options",
    "Record",
    "ResumeState",
    "RunFailed",
    "SaveFailed",
    "ShuttingDown",
    "Snapshot",
    "Status",
    "Stopped",
    "StoreUnavailable",
    "TooManyGenerations",
    "Unknown",
    "UnspoolError",
    "Viewer",
    "ViewerReleased",
    "fold",
    "new_stream_id",
]
