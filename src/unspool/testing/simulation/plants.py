"""Planted faults: each breaks one law of unspool on purpose, to prove that the simulator would see it.

A plant either stands between the witness and the store, or puts a subclass in the place of one of the core's classes
for as long as a simulation runs. The core knows nothing of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final

import msgspec

from unspool import replica as replica_module
from unspool import runs as runs_module
from unspool import supervisor as supervisor_module
from unspool.content import Snapshot
from unspool.errors import Fenced
from unspool.events import USAGE, Record
from unspool.jobs import GenerationKey, Job, Lease, Owner, Status
from unspool.protocols import Created, Expired, JobStore, NewJob, Sealed
from unspool.store_watch import StoreWatch
from unspool.tail import Tail
from unspool.viewer import Viewer
from unspool.writer import LogWriter


class Plant:
    """Nothing planted; and what every plant is."""

    name = "none"
    breaks: tuple[str, ...] = ()
    """The invariants one of which is found broken."""

    def store(self, store: JobStore) -> JobStore:
        """What every replica gets in the place of its store."""
        return store

    def inner(self, store: JobStore) -> JobStore:
        """What the witness sees in the place of the store."""
        return store

    @contextlib.contextmanager
    def installed(self) -> Generator[None, None, None]:
        """Put the plant's classes in place, and take them away again."""
        yield


class _Wrapped:
    """A store that does one thing wrong."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def epoch(self, key: GenerationKey) -> int:
        return (await self._store.get(*key)).lease.epoch


class _NoFence(_Wrapped):
    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        with contextlib.suppress(Fenced):
            await self._store.append(key, await self.epoch(key), records, metadata=metadata, status=status)


class _NoEpoch(_Wrapped):
    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        await self._store.append(key, await self.epoch(key), records, metadata=metadata, status=status)


class _TwoSeals(_Wrapped):
    async def seal(
        self, key: GenerationKey, epoch: int, type: str, payload: bytes, *, expires_at: float | None = None
    ) -> Sealed:
        sealed = await self._store.seal(key, epoch, type, payload, expires_at=expires_at)
        if sealed.won or sealed.job.terminal is None:
            return sealed
        terminal = Record(sealed.job.terminal.offset, type, payload)
        return Sealed(msgspec.structs.replace(sealed.job, terminal=terminal), won=True)


class _NumbersAgain(_Wrapped):
    async def create(self, new: NewJob) -> Created:
        created = await self._store.create(new)
        if created.attached or created.job.generation < 3:
            return created
        return Created(msgspec.structs.replace(created.job, generation=created.job.generation - 1))


class _CreatedTwice(_Wrapped):
    async def create(self, new: NewJob) -> Created:
        return await self._store.create(msgspec.structs.replace(new, request_id=None))


class _OneTenant(_Wrapped):
    async def create(self, new: NewJob) -> Created:
        return await self._store.create(msgspec.structs.replace(new, owner=Owner(new.owner.user)))


class _OpenDoor(_Wrapped):
    async def get(self, name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
        return await self._store.get(name, generation)


class _NobodyDies(_Wrapped):
    async def expired(self, limit: int, *, beyond: float | None = None) -> Expired:
        return Expired([], (await self._store.expired(0)).clocks)


class _EarlyDeath(_Wrapped):
    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        return await self._store.delete_expired(retention / 4, completed_retention / 4)


class _NeverForgets(_Wrapped):
    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        return []


class _DeafStop(_Wrapped):
    async def request_abort(self, key: GenerationKey, by: str, reason: str | None) -> Job:
        return await self._store.get(*key)

    async def take_over(
        self, key: GenerationKey, epoch: int, replica: str, seconds: float, *, expires_at: float | None = None
    ) -> Lease | None:
        if expires_at is None:
            await asyncio.sleep(1.0)
            return None
        return await self._store.take_over(key, epoch, replica, seconds, expires_at=expires_at)


class _RefusedOwner(_Wrapped):
    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        if records and records[0].offset % 50 == 0:
            raise Fenced(f"{key}: planted")
        await self._store.append(key, epoch, records, metadata=metadata, status=status)


class _TrustingTail(Tail):
    def accept(self, records: Sequence[Record]) -> bool:
        if records and records[0].offset > self.held + 1:
            self.held = records[0].offset - 1
        return super().accept(records)


class _BoastingTail(Tail):
    async def snapshot(self, at_least: int = 0) -> Snapshot:
        found = await super().snapshot(at_least)
        return msgspec.structs.replace(found, offset=found.offset + 1)


class _HoardingTail(Tail):
    def _evict(self) -> None:
        """Nothing is ever let go."""


class _HintedTail(Tail):
    async def repair(self) -> None:
        """Only what hints bring is ever seen."""


class _LateViewer(Viewer):
    __slots__ = ()

    def __init__(self, tail: Tail, after: int, *, snapshot: bool, detach: Callable[[Viewer], None]) -> None:
        super().__init__(tail, after + 1 if after < tail.last else after, snapshot=snapshot, detach=detach)


class _ForgetfulViewer(Viewer):
    __slots__ = ()

    async def _page(self, after: int) -> Sequence[Record] | None:
        page = await self.tail.read(after)
        if page.first_offset > after + 1:
            self.position = page.first_offset - 1
        return page.records or None


class _DoubleUsage(LogWriter):
    def put(self, type: str, payload: bytes, internal: bool) -> None:
        super().put(type, payload, internal)
        if type == USAGE:
            super().put(type, payload, internal)


class _HastyWatch(StoreWatch):
    def trusts(self, now: float) -> bool:
        return True


class _StorePlant(Plant):
    """Stands between the witness and the store; or before both, where the fault is the replica's."""

    def __init__(self, name: str, *breaks: str, wrapper: Callable[[JobStore], Any], outside: bool = False) -> None:
        self.name = name
        self.breaks = breaks
        self._wrapper = wrapper
        self._outside = outside

    def store(self, store: JobStore) -> JobStore:
        return self._wrapper(store) if self._outside else store

    def inner(self, store: JobStore) -> JobStore:
        return store if self._outside else self._wrapper(store)


class _ClassPlant(Plant):
    """Takes the place of a class of the core, by its name in the module that makes it."""

    def __init__(self, name: str, breaks: str, module: Any, attribute: str, planted: type) -> None:
        self.name = name
        self.breaks = (breaks,)
        self._module = module
        self._attribute = attribute
        self._planted = planted

    @contextlib.contextmanager
    def installed(self) -> Generator[None, None, None]:
        real = getattr(self._module, self._attribute)
        setattr(self._module, self._attribute, self._planted)
        try:
            yield
        finally:
            setattr(self._module, self._attribute, real)


NONE: Final = Plant()
_ALL: Final[tuple[Plant, ...]] = (
    _StorePlant("no-fence", "fence", wrapper=_NoFence),
    _StorePlant("no-epoch", "fence", wrapper=_NoEpoch),
    _StorePlant("two-seals", "one seal", wrapper=_TwoSeals),
    _StorePlant("numbers-again", "numbers", wrapper=_NumbersAgain),
    _StorePlant("created-twice", "idempotent create", wrapper=_CreatedTwice),
    _StorePlant("open-door", "ownership", wrapper=_OpenDoor),
    _StorePlant("one-tenant", "ownership", wrapper=_OneTenant),
    _StorePlant("nobody-dies", "owner lost", wrapper=_NobodyDies, outside=True),
    _StorePlant("early-death", "retention", wrapper=_EarlyDeath),
    _StorePlant("never-forgets", "retention", wrapper=_NeverForgets),
    _StorePlant("deaf-stop", "stop", "liveness", wrapper=_DeafStop, outside=True),
    _StorePlant("refused-owner", "fence", wrapper=_RefusedOwner),
    _ClassPlant("hasty-judge", "only the dead are lost", supervisor_module, "StoreWatch", _HastyWatch),
    _ClassPlant("trusted-hints", "viewers", replica_module, "Tail", _TrustingTail),
    _ClassPlant("boasting-snapshot", "snapshot", replica_module, "Tail", _BoastingTail),
    _ClassPlant("hoarding-tail", "bounds", replica_module, "Tail", _HoardingTail),
    _ClassPlant("needed-hints", "liveness", replica_module, "Tail", _HintedTail),
    _ClassPlant("late-start", "viewers", replica_module, "Viewer", _LateViewer),
    _ClassPlant("silent-gap", "viewers", replica_module, "Viewer", _ForgetfulViewer),
    _ClassPlant("charged-twice", "money", runs_module, "LogWriter", _DoubleUsage),
)
PLANTS: Final[Mapping[str, Plant]] = {plant.name: plant for plant in _ALL}
"""All of them, by name."""
