"""Responses that last: a run's stream, or the wait for its end; and what happens when their client goes away."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unspool.errors import Fenced, UnspoolError
from unspool.http.dialects.langgraph.threads import Known, known
from unspool.http.door import Door
from unspool.http.pump import LINK, cut
from unspool.jobs import ANYONE, Job
from unspool.viewer import End, Viewer

_log = logging.getLogger("unspool.http")

PATIENCE: Final = 5.0
"""Seconds in which a client whose connection broke may come back before its leaving stops a run that it asked to be
stopped then: the clients reconnect after one or two."""

Left = Callable[[], None]


class Leaving:
    """Stops runs whose client went away, where it asked for that and nobody else follows.

    Who comes last is the one whose leaving counts, and the job's record says who that was, for all replicas. Of others
    that follow, this replica sees its own.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def name() -> str:
        """A follower's name."""
        return secrets.token_hex(4)

    async def came(self, job: Job) -> str:
        """A client whose leaving counts came to follow; its name."""
        follower = self.name()
        if not job.settled:
            try:
                await self._door.manager.store.update(job.key, job.lease.epoch, Known.change(follower=follower))
            except Fenced:
                _log.info("%s: it ended before it was known who follows it", job.key)
        return follower

    def left(self, job: Job, follower: str) -> None:
        """That client went away."""
        task = asyncio.create_task(self._stop(job, follower))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self, job: Job, follower: str) -> None:
        await asyncio.sleep(PATIENCE)
        manager = self._door.manager
        if manager.closing:
            return
        try:
            job = await manager.job(job.stream_id, user=ANYONE, tenant=job.tenant, generation=job.generation)
            tail = manager.replica.tails.get(job.key)
            if job.settled or known(job).follower != follower or (tail is not None and tail.viewers):
                return
            await manager.abort(
                job.stream_id, user=ANYONE, tenant=job.tenant, generation=job.generation, reason="the client went away"
            )
        except UnspoolError as error:
            _log.warning("%s: its client went away, and it could not be stopped: %s", job.key, error)


class Waiting(Response):
    """JSON that comes at the end of a run. The head leaves at once, so that a client which is cut off knows where to
    ask again; line feeds keep the connection alive."""

    def __init__(
        self, viewer: Viewer, answer: Callable[[], Awaitable[Any]], left: Left | None, *, headers: Mapping[str, str],
        heartbeat: float,
    ) -> None:  # fmt: skip
        super().__init__(media_type="application/json", headers={"cache-control": "no-store", **headers})
        del self.headers["content-length"]
        self._viewer = viewer
        self._answer = answer
        self._left = left
        self._heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        helpers = asyncio.create_task(self._watch(receive)), asyncio.create_task(self._beat())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            while (records := await self._viewer.records()) is not None:
                if not records:
                    await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            if self._viewer.end is End.FINISHED:
                body = msgspec.json.encode(await self._answer())
                await send({"type": "http.response.body", "body": body, "more_body": False})
        except Exception as error:  # noqa: BLE001
            # Whatever went away, it is not the run's answer: the connection is cut, and the client asks again.
            if isinstance(error, UnspoolError):
                _log.warning("%r is cut off: %s", self._viewer, error)
                self._left = None  # the client did not leave
            await cut(scope.get("extensions", {}).get(LINK), send, error)
        finally:
            for helper in helpers:
                helper.cancel()
            self._viewer.close()
            if self._viewer.end is End.CLOSED and self._left is not None:
                self._left()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            self._viewer.poke()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._viewer.close()
