"""A run: the task behind a generation. How it is stopped, and how its end becomes a seal.

Three things can end a run: its task comes to an end, its grace time after a stop is over, or the lease is lost. The
first to happen is final; what the task does afterwards meets a writer that refuses everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from unspool.billing import Billing
from unspool.errors import Fenced, GenerationStopped, Gone, NotFound, RunFailed, StoreUnavailable, TooLarge
from unspool.events import Record
from unspool.jobs import Job, Task
from unspool.options import Options
from unspool.producer import Generation
from unspool.protocols import Channel, Checkpoint, Hint, JobStore
from unspool.settlement import Settler
from unspool.tail import Tail
from unspool.tasks import RunFunction, Tasks
from unspool.terminals import Aborted, Completed, Failed, Verdict
from unspool.turns import Turns
from unspool.writer import LogWriter

_log = logging.getLogger("unspool")


class Run:
    """One generation that this replica owns. `done` is set when its log is sealed, or another replica owns it."""

    def __init__(
        self,
        job: Job,
        tail: Tail,
        store: JobStore,
        channel: Channel,
        settler: Settler,
        options: Options,
        tasks: Tasks,
        billing: Billing,
        turns: Turns,
        finished: Callable[[Run], None],
    ) -> None:
        self.job = job
        self.key = job.key
        self.tail = tail
        self.done = asyncio.Event()
        self.lost = False
        self.cancelled = False  # this class has cancelled the task
        self._time = asyncio.get_running_loop().time
        self.started_at = self.active_at = self._time()
        self._store = store
        self._channel = channel
        self._settler = settler
        self._options = options
        self._tasks = tasks
        self._finished = finished
        self._task: asyncio.Task[object] | None = None
        self._stop: Verdict | None = None
        self._ended: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()
        self._grace: asyncio.TimerHandle | None = None
        self._due = self._next_due(0)
        self._keeper: asyncio.Task[None] | None = None
        self._keeps = True  # no checkpoint has failed yet for a reason that was not foreseen
        self._writer = LogWriter(
            store, job.key, job.lease.epoch, self._publish, self._on_lost, self._held, turns,
            last=job.last_offset, backlog=options.backlog, log_bytes=job.limits.log_bytes,
        )  # fmt: skip
        self.generation = Generation(job, self._writer, tail.snapshot, billing)
        tail.local = True
        settler.totals["started"] += 1
        self._settling = asyncio.create_task(self._settle(), name=f"settle {job.key}")

    def __repr__(self) -> str:
        return f"<Run {self.key} stop={self._stop} lost={self.lost} done={self.done.is_set()}>"

    @property
    def epoch(self) -> int:
        return self.job.lease.epoch

    # the task

    def begin(self, run: RunFunction | Task) -> None:
        """Start the run in a task of its own, whose end ends the generation."""
        task = self._task = asyncio.create_task(self._tasks.call(run, self.generation), name=f"run {self.key}")
        task.add_done_callback(self._on_task_done)
        if self.generation.stopping.is_set():
            self._cancel()

    def adopt(self) -> None:
        """The caller's own task is the run: a stop cancels it, and `leave` says when its part is over."""
        self._task = asyncio.current_task()
        if self.generation.stopping.is_set():
            self._cancel()

    async def leave(self, error: BaseException | None) -> None:
        """The caller's part is over, with this error. Waits for the seal, then raises the error again: all but the
        cancellation that came from a stop, which has done its work."""
        self.end(error)
        sealed = asyncio.ensure_future(self.done.wait())
        while not sealed.done():
            try:
                await asyncio.shield(sealed)
            except asyncio.CancelledError as cancelled:
                error = error or cancelled
        left = 1
        if self.cancelled and self._task is not None:
            left = self._task.uncancel()  # our own cancellation has done its work, also where the block swallowed it
        if error is None or (left == 0 and isinstance(error, asyncio.CancelledError | GenerationStopped)):
            return
        raise error

    def end(self, error: BaseException | None) -> None:
        """The run is over: it returned, was cancelled or failed."""
        if not self._ended.done():
            self._ended.set_result(self._stop or self._verdict(error))

    def _on_task_done(self, task: asyncio.Task[object]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if (
            self._ended.done()
            and error is not None
            and not isinstance(error, asyncio.CancelledError | GenerationStopped)
        ):
            _log.warning("%s: the run failed after its generation had ended: %r", self.key, error)
        self.end(error)

    def _verdict(self, error: BaseException | None) -> Verdict:
        match error:
            case None:
                return self.generation.verdict
            case RunFailed():
                _log.warning("%s: the run failed with %s: %s", self.key, error.reason, error.message)
                return Failed(_printable(error.reason), _printable(error.message), error.retryable)
            case asyncio.CancelledError():
                return Aborted("owner", "cancelled")
            case _:
                _log.error("%s: the run failed", self.key, exc_info=error)
                return Failed("run_failed", f"The run failed with {type(error).__name__}.")

    # stopping

    def stop(self, verdict: Verdict) -> None:
        """Stop the run, to be sealed with this verdict: the first stop wins. It has the grace time to clean up."""
        if self._stop is not None or self._ended.done():
            return
        self._stop = verdict
        self.generation.stopping.set()
        self._cancel()
        self._grace = asyncio.get_running_loop().call_later(self._options.abort_grace, self._fence)

    def _cancel(self) -> None:
        if self._task is not None and not self._task.done():
            self.cancelled = True
            self._task.cancel()

    def _fence(self) -> None:
        if not self._ended.done():
            _log.warning("%s: the run did not stop within %s s and is fenced off", self.key, self._options.abort_grace)
            self.generation.collect_quietly()
            self._writer.refuse(GenerationStopped(f"{self.generation.job.label} was stopped"))
            self._ended.set_result(self._stop)

    def _on_lost(self, error: Exception, *, replaced: bool = False) -> None:
        """Another replica owns or has sealed the log: stop, and seal nothing. Or the store refuses what was emitted."""
        if self.lost or self._ended.done():  # what has ended is being sealed: the answer to that says what became of it
            return
        if isinstance(error, TooLarge):
            _log.warning("%s: the run fails: %s", self.key, error)
            self.stop(Failed(error.code, error.message))
            return
        self.lost = True
        if replaced:
            _log.info("%s: replaced, and its run is stopped", self.key)
        else:
            self._settler.totals["lost"] += 1
            _log.warning("%s: no longer owned here, and its run is stopped: %s", self.key, error)
        self._writer.refuse(error if isinstance(error, Fenced) else Fenced(str(error)))
        self.generation.stopping.set()
        self._cancel()
        self._ended.set_result(None)
        self.tail.repair_soon()

    def lose(self, *, replaced: bool = False) -> None:
        """Stop a run whose lease is gone, as the store has said: it has another owner, or was replaced."""
        self._on_lost(Fenced(f"{self.key} has another owner, or is sealed"), replaced=replaced)
        self._writer.abandon()  # an append that hangs would outlive everything that waits for it

    # publishing and keeping

    def _held(self, after: int) -> Sequence[Record] | None:
        return self.tail.slice(after, limit=self._options.window)

    def _publish(self, records: Sequence[Record]) -> None:
        self.active_at = self._time()
        totals = self._settler.totals
        totals["appends"] += 1
        totals["records"] += len(records)
        self.tail.accept(records)
        last = records[-1].offset
        self._channel.publish(Hint(self.key, last, records))
        if last >= self._due and self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"checkpoint {self.key}")

    def _next_due(self, covered: int) -> int:
        """The offset from which a checkpoint is due again: a long log has fewer of them."""
        return covered + max(self._options.checkpoint_every, min(covered // 7, self._options.log_records // 8))

    async def _keep(self) -> None:
        """Save a checkpoint, and trim what it covers of a log beyond its bound."""
        covered = self._writer.last
        try:
            covered, state = await self.tail.dump(self.job)
            await self._store.save_checkpoint(self.key, self.epoch, Checkpoint(covered, state))
            surplus = self._writer.last - self._options.log_records
            if surplus > 0:
                await self._store.trim(self.key, self.epoch, min(surplus, covered))
        except (Fenced, NotFound, Gone, StoreUnavailable) as error:
            _log.info("%s: no checkpoint this time: %s", self.key, error)
        except Exception:  # noqa: BLE001
            # A checkpoint is optional: whatever it meets must not end the run, nor be met again at every append.
            if self._keeps:
                self._keeps = False
                _log.exception("%s: no checkpoint can be saved, and nothing is trimmed, until one succeeds", self.key)
        finally:
            self._due = self._next_due(covered)
            self._keeper = None

    # settling

    async def _settle(self) -> None:
        verdict = await self._ended
        # Whatever the run has left behind is told, and can no longer hold up the seal by writing on.
        self.generation.stopping.set()
        if verdict is not None and self._writer.refused is None:
            self.generation.collect_quietly()
        if self.generation.failure is not None and isinstance(verdict, Completed):
            verdict = self._verdict(self.generation.failure)
        self._writer.refuse(GenerationStopped(f"{self.generation.job.label} has ended"))
        try:
            if verdict is not None:
                await self._seal(verdict)
        finally:
            if self._grace is not None:
                self._grace.cancel()
            self.tail.local = False
            self.done.set()
            self._finished(self)

    async def _seal(self, verdict: Verdict) -> None:
        try:
            await self._writer.flush()
            await self._settler.until_available(self._writer.restore)
            await self._settler.settle(
                self.key, self.epoch, verdict, self.tail, patient=True, restore=self._writer.restore
            )
        except (Fenced, NotFound, Gone) as error:
            _log.warning("%s: not sealed here: %s", self.key, error)
            self._settler.totals["lost"] += 1
            self.lost = True
            self.tail.repair_soon()

    def give_up(self, verdict: Verdict) -> None:
        """End it before it has begun."""
        self.stop(verdict)
        self.end(None)

    def abandon(self) -> None:
        """Give up on a seal that does not come about: the replica stops, and the lease will run out."""
        _log.error("%s: not sealed when the replica stopped", self.key)
        self._writer.abandon()
        self._settling.cancel()


def _printable(text: object) -> str:
    """What an error of the application says, as text that every log can hold."""
    return str(text).encode(errors="replace").decode()
