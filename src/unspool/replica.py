"""State of one replica: the runs that it owns, the tails of the logs that are followed here, viewers, hints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any

from unspool import events
from unspool.billing import Billing
from unspool.errors import Gone, NotFound, ShuttingDown, StoreUnavailable, UnreadableRecord
from unspool.jobs import GenerationKey, Job, Status, Task
from unspool.options import ContentHook, Hooks, Options
from unspool.protocols import Channel, Hint, JobStore, current
from unspool.runs import Run
from unspool.settlement import Settler
from unspool.tail import Tail
from unspool.tasks import Tasks
from unspool.terminals import INTERRUPTED, Aborted, Failed
from unspool.turns import Turns
from unspool.viewer import End, Viewer

_log = logging.getLogger("unspool")
_REMEMBERED = 10_000  # streams whose highest number is remembered
_LINGER = 5.0  # seconds that a tail without viewers is kept for those who come right back


class Replica:
    """Runs, tails and viewers of this process, between a store and a channel of hints."""

    def __init__(
        self,
        name: str,
        store: JobStore,
        channel: Channel,
        options: Options,
        hooks: Hooks,
        tasks: Tasks,
        billing: Billing,
    ) -> None:
        self.name = name
        self.tasks = tasks
        self.billing = billing
        self.store = store
        self.channel = channel
        self.options = options
        self.hooks = hooks
        self.settler = Settler(store, channel, hooks, billing, options.hook_timeout)
        self.runs: dict[GenerationKey, Run] = {}
        self.tails: dict[GenerationKey, Tail] = {}
        self._numbers: dict[str, int] = {}  # of streams, the highest one seen here; the latest last
        self.viewers: dict[Viewer, None] = {}  # released in the order in which they came
        self.closing = False
        self._closed = False
        self._turns = Turns()
        self._claimed: set[GenerationKey] = set()
        self._creations: dict[asyncio.Future[None], asyncio.Task[Any] | None] = {}
        self._background: set[asyncio.Task[Any]] = set()

    # tails and viewers

    def known_tail(self, key: GenerationKey) -> Tail | None:
        """The tail of this very log. One of another log of its number is done with: the store has lost that."""
        tail = self.tails.get(key)
        if tail is None or not tail.key.is_other(key.log):
            return tail
        tail.retire()
        del self.tails[key]
        self.channel.unwatch(key)
        return None

    def _keep(self, key: GenerationKey, last: int, *, local: bool = False) -> Tail:
        tail = self.known_tail(key)
        if tail is None:
            tail = Tail(key, self.store, last=last, window=self.options.window, window_bytes=self.options.window_bytes)
            tail.idle_since = asyncio.get_running_loop().time()
            self.tails[key] = tail
            self._remember(key)
            self.channel.watch(key, local=local)
        return tail

    def _remember(self, key: GenerationKey) -> None:
        self._numbers[key.stream_id] = max(key.generation, self._numbers.pop(key.stream_id, 0))
        if len(self._numbers) > _REMEMBERED:
            del self._numbers[next(iter(self._numbers))]

    def highest(self, name: str) -> int:
        """The highest number seen here of the stream of this name, also where the store has lost it since; 0: none."""
        return self._numbers.get(name, 0)

    async def tail(self, key: GenerationKey, job: Job | None = None) -> Tail:
        """The tail of a log, made when it is first asked for. Raises NotFound or Gone."""
        tail = self.known_tail(key)
        if tail is None:
            job = job or await current(self.store, key)
            key = job.key
            # A log that has ended begins with its end: whoever wants what came before reads it by range.
            tail = self._keep(key, job.last_offset - 1 if job.settled else job.last_offset)
            if job.terminal is not None:
                tail.accept([job.terminal])
        return tail

    def drop_idle_tails(self, keys: Iterable[GenerationKey]) -> None:
        now = asyncio.get_running_loop().time()
        for key in keys:
            tail = self.tails.get(key)
            if tail is None:
                continue
            over = tail.sealed or tail.gone is not None or now - tail.idle_since >= _LINGER
            if over and not tail.viewers and key not in self.runs and key not in self._claimed:
                del self.tails[key]
                self.channel.unwatch(key)

    def attach(self, tail: Tail, job: Job, after: int, *, snapshot: bool) -> Viewer:
        """A new viewer of this tail. Raises ShuttingDown."""
        viewer = self.watch(tail, after, snapshot=snapshot, detach=self._detach)
        if len(tail.viewers) == 1 and self.hooks.first_viewer and not job.settled:
            self.spawn(self.settler.call(self.hooks.first_viewer, job))
        return viewer

    def watch(
        self, tail: Tail, after: int, *, snapshot: bool = False, detach: Callable[[Viewer], None] | None = None
    ) -> Viewer:
        """Attach a viewer without calling hooks, for logs that are not generations. Raises ShuttingDown."""
        if self.closing:
            raise ShuttingDown
        viewer = Viewer(tail, after, snapshot=snapshot, detach=detach or self._forget)
        self.viewers[viewer] = None
        tail.viewers[viewer] = None
        if tail.held < tail.last and not tail.local:
            tail.repair_soon()
        return viewer

    def _forget(self, viewer: Viewer) -> None:
        self.viewers.pop(viewer, None)
        viewer.tail.viewers.pop(viewer, None)
        if not viewer.tail.viewers:
            viewer.tail.idle_since = asyncio.get_running_loop().time()

    def _detach(self, viewer: Viewer) -> None:
        self._forget(viewer)
        tail = viewer.tail
        if tail.viewers:
            return
        tail.unsync(self.spawn)
        if not tail.sealed and viewer.end is not End.RELEASED and self.hooks.all_viewers_left:
            self.spawn(self._tell(self.hooks.all_viewers_left, tail.key))

    async def _tell(self, hooks: Sequence[ContentHook], about: Job | GenerationKey) -> None:
        try:
            job = about if isinstance(about, Job) else await current(self.store, about)
            snapshot = await (await self.tail(job.key, job)).snapshot(job.last_offset)
        except (NotFound, Gone, StoreUnavailable) as error:
            _log.warning("%s: hooks were not called: %s", about, error)
            return
        await self.settler.call(hooks, job, snapshot)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in the background; `close` waits for it."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # runs

    @contextlib.contextmanager
    def creation(self) -> Generator[None, None, None]:
        """Around a creation and what follows from it: `close` waits for it, so that what it makes is drained, too."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._creations[future] = asyncio.current_task()  # its caller may have left, and nobody else holds it
        try:
            yield
        finally:
            del self._creations[future]
            if not future.done():
                future.set_result(None)

    def own(self, job: Job) -> Run:
        """Own a job that was just created here. Raises ShuttingDown after `close`."""
        if self._closed:
            raise ShuttingDown
        return self._own(job, self._keep(job.key, job.last_offset, local=True))

    def _own(self, job: Job, tail: Tail) -> Run:
        run = Run(
            job, tail, self.store, self.channel, self.settler, self.options, self.tasks, self.billing, self._turns,
            self._disown,
        )  # fmt: skip
        if (other := self.runs.get(job.key)) is not None:  # the store has lost it, and given its number again
            other.lose()
        self.runs[job.key] = run
        return run

    @contextlib.contextmanager
    def claim(self, key: GenerationKey) -> Generator[bool]:
        """Around a take-over and what follows from it: False where another task of this replica is at it already."""
        mine = key not in self._claimed
        self._claimed.add(key)
        try:
            yield mine
        finally:
            if mine:
                self._claimed.discard(key)

    async def resume(self, job: Job, task: Task) -> None:
        """Resume a run whose owner was lost, under a lease that was just taken over. Raises ShuttingDown."""
        tail = await self.tail(job.key, job)
        await self.settler.until_available(tail.repair)
        if tail.held > job.last_offset:  # the store has lost what viewers here have read, and it will be written again
            tail.rewind(job.last_offset)
        await self.billing.take_over(job, job.lease.epoch)
        if self.closing:  # it waits for the runs that it knew when it began to close
            raise ShuttingDown
        run = self._own(job, tail)
        await run.generation.emit(events.RESUMED, {"attempt": job.lease.epoch})
        run.begin(task)

    def _disown(self, run: Run) -> None:
        if self.runs.get(run.key) is run:
            del self.runs[run.key]
        if not run.tail.sealed and self.tails.get(run.key) is run.tail:
            self.channel.watch(run.key)  # somebody else goes on with it
        run.tail.idle_since = asyncio.get_running_loop().time()

    def on_replaced(self, job: Job) -> None:
        """A job was replaced by a creation here: stop its run, tell its viewers on every replica."""
        run = self.runs.get(job.key)
        if run is not None:
            run.lose(replaced=True)
        tail = self.known_tail(job.key)
        if tail is not None:
            self.settler.announce(tail, job)
        else:
            self.settler.publish(job)
        self.settler.totals[job.status] += 1
        self.spawn(self.billing.end(job))
        if self.hooks.settled:
            self.spawn(self._tell(self.hooks.settled, job))

    # hints

    def on_hint(self, hint: Hint) -> None:
        """Called by the transport. A hint about a run of ours that is not from us says: look at the job record."""
        tail = self.tails.get(hint.key)
        run = self.runs.get(hint.key)
        if run is None:
            if tail is not None:
                tail.hint(hint)
        elif hint.control:
            self.spawn(self._look(run))

    async def _look(self, run: Run) -> None:
        try:
            job = await current(self.store, run.key)
        except (NotFound, Gone):
            run.lose()
            return
        except (StoreUnavailable, UnreadableRecord) as error:
            _log.warning("%s: a control hint could not be followed up: %s", run.key, error)
            return
        if job.settled or job.lease.epoch != run.epoch:
            run.lose(replaced=job.status is Status.REPLACED)
        elif job.abort is not None:
            run.stop(Aborted(job.abort.by, job.abort.reason))

    # the end

    def release_viewers(self) -> None:
        """Disconnect all viewers with ViewerReleased and refuse new ones."""
        self.closing = True
        for viewer in list(self.viewers):
            viewer.release()

    async def close(self, drain: float) -> None:
        """Let runs finish within `drain` seconds, interrupt the rest, release the viewers of everybody else's."""
        self.closing = True
        for viewer in [viewer for viewer in self.viewers if not viewer.tail.local]:
            viewer.release()  # what they follow runs elsewhere, and so can they
        if self._creations:
            await asyncio.wait(list(self._creations), timeout=max(drain, self.options.abort_grace))
        self._closed = True
        runs = list(self.runs.values())
        if runs:
            await _all_done(runs, drain)
        for run in list(self.runs.values()):
            run.stop(Failed(INTERRUPTED, "The server was shut down before the answer was complete.", retryable=True))
        runs = list(self.runs.values())
        if runs:
            await _all_done(runs, self.options.abort_grace + self.options.hook_timeout)
        for run in list(self.runs.values()):
            run.abandon()
        await asyncio.sleep(0)  # viewers of what has just been sealed take their terminal record first
        self.release_viewers()
        if ending := {*self._background, *self.settler.calls}:
            await asyncio.wait(ending, timeout=self.options.hook_timeout)
        if left := list(self._background):  # the store is closed next
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=self.options.abort_grace)
        for tail in self.tails.values():
            tail.close()
        self.tails.clear()


async def _all_done(runs: list[Run], seconds: float) -> None:
    waits = [asyncio.ensure_future(run.done.wait()) for run in runs]
    await asyncio.wait(waits, timeout=seconds)
    for task in waits:
        task.cancel()
