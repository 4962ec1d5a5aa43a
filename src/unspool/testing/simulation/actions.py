"""What users do: one table of named actions with their weights, each a plain function of the world."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from unspool.errors import (
    CapacityExceeded,
    Fenced,
    GenerationConflict,
    Gone,
    InvalidPosition,
    NotFound,
    UnspoolError,
)
from unspool.jobs import Job, Owner, Status, stream_name
from unspool.outcomes import AbortOutcome, AlreadySettled, SaveFailed, Stopped, Unknown
from unspool.testing.simulation.faults import FAULTS, mend_store, restart
from unspool.testing.simulation.log_truth import LogTruth
from unspool.testing.simulation.node import Node, not_served
from unspool.testing.simulation.runs import make_run

if TYPE_CHECKING:
    from unspool.manager import GenerationManager
    from unspool.testing.simulation.world import World

Action = Callable[["World"], None]

_TENANTS: Final = (None, "t", "@")
"""The last one is written otherwise in the names of streams than it is said."""


class Actions:
    """Lets users act at the world's pace, and faults strike at its rate of trouble, until `end`."""

    def __init__(self, world: World, table: tuple[tuple[int, str, Action], ...]) -> None:
        self._world = world
        self._users = [(weight, action) for weight, _, action in table]
        self._faults = [(weight, action) for weight, name, action in FAULTS if name not in world.profile.disabled]
        self._later(world.profile.pace, self._act)
        if world.profile.trouble and self._faults:
            self._later(world.profile.trouble, self._strike)

    def _later(self, mean: float, what: Callable[[], None]) -> None:
        world = self._world
        world.loop.call_later(world.random.expovariate(1.0) * mean, what, context=world.clients.context)

    def _act(self) -> None:
        self._do(self._users)
        self._later(self._world.profile.pace, self._act)

    def _strike(self) -> None:
        self._do(self._faults)
        self._later(self._world.profile.trouble, self._strike)

    def _do(self, table: list[tuple[int, Action]]) -> None:
        if not self._world.ending:
            random = self._world.random
            random.choices([action for _, action in table], [weight for weight, _ in table])[0](self._world)

    def end(self) -> None:
        """No more trouble: mend everything, stop what runs, and let the viewers read to the end."""
        world = self._world
        world.note("the end: everything is mended, and all runs are stopped")
        world.ending = True
        mend_store(world)
        for node in world.nodes:
            node.thaw()
            node.heal()
            if not node.up:
                restart(node)
        world.loop.call_later(1.0, self._stop_all, context=world.clients.context)

    def _stop_all(self) -> None:
        for log in list(self._world.truth.active.values()):
            stop(self._world, log)


# users


def _some_node(world: World) -> Node | None:
    ready = [node for node in world.nodes if node.up]
    return world.random.choice(ready) if ready else None


def _some_log(world: World) -> LogTruth | None:
    return world.random.choice(world.recent) if world.recent else None


def _start(world: World) -> None:
    """A user asks something: once, or on two replicas at once, and again when nobody has answered."""
    random = world.random
    number = random.randint(1, world.profile.streams)
    # Tenants use the same stream ids, and so do their users' requests: none of them may meet another's.
    stream_id = f"conv-{(number + 2) // len(_TENANTS)}"
    owner = Owner(f"u{number % 2}", _TENANTS[number % len(_TENANTS)])
    name = stream_name(stream_id, owner.tenant)
    request_id = f"r{random.randint(1, 10**9)}" if random.random() < 0.6 else None
    expected = None
    if random.random() < 0.1:
        expected = max(0, world.truth.used.get(name, 0) + random.choice((0, 0, 0, -1, 1)))
    behaviour, run = make_run(random, world.profile.chunk, world.run_began)
    numbers: set[int] = set()

    def ask(tries: int) -> None:
        node = _some_node(world)
        if node is None:
            return
        world.note("asks on %s of %s (%s, %s)", name, node.replica, request_id, behaviour)

        async def call(manager: GenerationManager) -> Job:
            return await manager.start(
                stream_id, run, user=owner.user, tenant=owner.tenant, request_id=request_id, expect_generation=expected
            )

        def answer(found: Job | UnspoolError) -> None:
            if isinstance(found, Job):
                numbers.add(found.generation)
                if request_id is not None and len(numbers) > 1 and not _may_be_gone(world, name, numbers):
                    world.fail("idempotent create", f"{request_id} on {name} made the generations {numbers}")
            elif not_served(found):
                if request_id is not None and tries:
                    world.loop.call_soon(ask, tries - 1, context=world.clients.context)
            elif not isinstance(found, CapacityExceeded) and not (
                expected is not None and isinstance(found, GenerationConflict)
            ):
                world.fail("no stray errors", f"start on {name}: {found!r}")

        node.request(call, answer)

    ask(2)
    if request_id is not None and random.random() < 0.5:
        ask(2)


def _may_be_gone(world: World, name: str, numbers: set[int]) -> bool:
    logs = (log for key, log in world.truth.logs.items() if key[0] == name and key[1] in numbers)
    return any(not log.holds_request for log in logs)


def _stop(world: World) -> None:
    log = _some_log(world)
    if log is not None:
        stop(world, log)
        if world.random.random() < 0.2:
            stop(world, log)


def stop(world: World, log: LogTruth) -> None:
    """Ask a replica to stop a generation; the answer is held against what was sealed, and its time is watched."""
    node = _some_node(world)
    if node is None:
        return
    owner = log.job.owner
    world.note("stops %s on %s", log.key, node.replica)
    watched = world.watch.stop_began(node, log)

    async def call(manager: GenerationManager) -> AbortOutcome:
        return await manager.abort(
            log.job.stream_id, generation=log.key.generation, user=owner.user, tenant=owner.tenant, reason="test"
        )

    def answer(found: AbortOutcome | UnspoolError) -> None:
        world.watch.stop_answered(watched)
        if isinstance(found, UnspoolError):
            if not not_served(found):
                world.fail("stop", f"stopping {log.key}: {found!r}")
        elif isinstance(found, Unknown):
            if not log.deleted:
                world.fail("stop", f"stopping {log!r} was answered with Unknown")
        else:
            _check_outcome(world, log, found)

    node.request(call, answer)


def _check_outcome(world: World, log: LogTruth, found: Stopped | AlreadySettled | SaveFailed) -> None:
    world.stops += 1
    world.note("is told that %s is stopped: %s", log.key, found.job.status)
    if log.active or found.job.status is not log.status or found.final != log.terminal:
        world.fail("stop", f"the answer was {found.job!r} with {found.final}; {log!r} with {log.terminal}")
        return
    if isinstance(found, Stopped) and log.status is not Status.ABORTED:
        world.fail("stop", f"{log!r} was answered as stopped")
    truth = log.content(log.last)
    if found.text != truth.text or found.content != truth.parts or found.usage != truth.usage:
        world.fail("stop", f"the answer had the text {found.text!r}; sealed was {truth.text!r}")


def _ask(world: World) -> None:
    """A user looks: status, content, lists, counts; each answer is held against the truth."""
    node, log = _some_node(world), _some_log(world)
    if node is None or log is None:
        return
    owner = log.job.owner
    who: Any = {"user": owner.user, "tenant": owner.tenant}
    stream_id, number = log.job.stream_id, log.key.generation

    async def call(manager: GenerationManager) -> None:
        match world.random.randrange(5):
            case 0:
                job = await manager.job(stream_id, generation=number, **who)
                if job.owner != owner:
                    world.fail("ownership", f"{job!r} is {job.owner}'s, and was asked for by {owner}")
            case 1:
                before = log.last
                snapshot = await manager.snapshot(stream_id, generation=number, **who)
                world.truth.snapshot(log, snapshot, "an asked for snapshot")
                if snapshot.offset < before - 1:  # the terminal record is in no snapshot
                    world.fail("snapshot", f"{log.key} was at {before}, then a snapshot said {snapshot.offset}")
            case 2:
                state = await manager.resume_state(stream_id, generation=number, **who)
                if state is not None and state.text != log.content(state.offset).public().text:
                    world.fail("snapshot", f"the resume state of {log.key} is not the fold of 1..{state.offset}")
                if state is None and not log.deleted:
                    world.fail("ownership", f"{owner} was told that {log.key} does not exist")
            case 3:
                for job in await manager.active(**who):
                    if job.owner != owner or job.settled:
                        world.fail("ownership", f"{job!r} stands in the list of {owner}")
            case _:
                for job in await manager.jobs(limit=20, **who):
                    if job.owner != owner:
                        world.fail("ownership", f"{job!r} stands in the list of {owner}")
                counts = await manager.counts()
                if counts.total > world.profile.options.max_jobs + 1:
                    world.fail("bounds", f"the store keeps {counts.total} jobs")

    def answer(found: object) -> None:
        if isinstance(found, Gone | NotFound) and log.deleted:
            return
        if isinstance(found, UnspoolError) and not not_served(found):
            world.fail("no stray errors", f"asking for {log!r}: {found!r}")

    node.request(call, answer)


def _probe(world: World) -> None:
    """A stranger tries every verb on somebody else's stream: the answers are those of one that does not exist."""
    node, log = _some_node(world), _some_log(world)
    if node is None or log is None:
        return
    owner = log.job.owner
    strangers = [Owner("mallory", owner.tenant), Owner(owner.user, "other"), Owner(None, None)]
    stranger = world.random.choice([other for other in strangers if other != owner])
    generation = world.random.choice((None, log.key.generation, 10**6))
    verb = world.random.choice(("job", "view", "snapshot", "resume_state", "start", "update", "abort", "delete"))
    who: Any = {"user": stranger.user, "tenant": stranger.tenant}
    world.probes += 1

    async def attempt(manager: GenerationManager, stream_id: str) -> object:
        try:
            match verb:
                case "start":
                    return await manager.start(stream_id, _never, expect_generation=10**6, **who)
                case "update":
                    return await manager.update(stream_id, title="mine", **who)
                case "delete":
                    return await manager.delete(stream_id, generation=log.key.generation, **who)
                case _:
                    return await getattr(manager, verb)(stream_id, generation=generation, **who)
        except UnspoolError as error:
            if not_served(error):
                raise
            return type(error), str(error), error.details

    async def call(manager: GenerationManager) -> None:
        name = stream_name(log.job.stream_id, stranger.tenant)
        known = name in world.truth.owners
        theirs = await attempt(manager, log.job.stream_id)
        nobodys = await attempt(manager, "no-such-stream")
        if verb == "start":
            # What a user may not have is refused; what a tenant does not have yet could be started, were it expected.
            if known is not (name in world.truth.owners):
                return
            refusal = NotFound() if known else _unexpected(log.job.stream_id)
            nobodys = type(refusal), str(refusal), refusal.details
        if theirs != nobodys:
            world.fail("ownership", f"{verb} of {log.key} for {stranger}: {theirs}; for one not there: {nobodys}")

    def answer(found: object) -> None:
        if isinstance(found, UnspoolError) and not not_served(found):
            world.fail("no stray errors", f"a stranger's {verb} of {log.key}: {found!r}")

    node.request(call, answer)


def _unexpected(stream_id: str) -> GenerationConflict:
    return GenerationConflict(f"stream {stream_id!r} is at generation 0, not at {10**6}", generation=0)


async def _never(_: object) -> None:
    raise AssertionError("a stranger's run has begun")


def _wild_position(world: World) -> None:
    """A position far beyond the end: refused, naming where the log is."""
    node, log = _some_node(world), _some_log(world)
    if node is None or log is None:
        return
    owner = log.job.owner

    async def call(manager: GenerationManager) -> object:
        return await manager.view(
            log.job.stream_id, user=owner.user, tenant=owner.tenant, generation=log.key.generation, after=10**7
        )

    def answer(found: object) -> None:
        if isinstance(found, InvalidPosition):
            if found.details.get("generation") != log.key.generation or "first_offset" not in found.details:
                world.fail("positions", f"{log!r}: {found!r} does not say where the log is: {found.details}")
        elif not not_served(found) and not (log.deleted and isinstance(found, Gone | NotFound)):
            world.fail("positions", f"{log!r} was followed after 10000000: {found!r}")

    node.request(call, answer)


def _write_metadata(world: World) -> None:
    _touch(world, "update")


def _delete(world: World) -> None:
    _touch(world, "delete")


def _touch(world: World, verb: str) -> None:
    node, log = _some_node(world), _some_log(world)
    if node is None or log is None:
        return
    owner = log.job.owner
    who: Any = {"user": owner.user, "tenant": owner.tenant}

    async def call(manager: GenerationManager) -> None:
        if verb == "update":
            await manager.update(log.job.stream_id, title="a title", **who)
        elif not await manager.delete(log.job.stream_id, generation=log.key.generation, **who):
            return

    def answer(found: object) -> None:
        if (
            isinstance(found, UnspoolError)
            and not not_served(found)
            and not isinstance(found, Fenced | Gone | NotFound)
        ):
            world.fail("no stray errors", f"{verb} of {log!r}: {found!r}")

    node.request(call, answer)


ACTIONS: Final[tuple[tuple[int, str, Action], ...]] = (
    (10, "start", _start),
    (3, "stop", _stop),
    (5, "ask", _ask),
    (3, "probe", _probe),
    (1, "wild position", _wild_position),
    (1, "metadata", _write_metadata),
    (1, "delete", _delete),
)
