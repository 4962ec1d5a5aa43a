"""Viewers as they really are: they drop in the middle of anything, come back anywhere, read slowly, change their mind.

A `Client` knows its position and nothing else, and holds every record that it gets against the truth. A `Connection`
is the replica's side of it: what a route does for one response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from unspool.content import Fold, fold
from unspool.errors import Gone, NotFound, UnspoolError
from unspool.events import SYNC, TERMINAL, Record
from unspool.jobs import GenerationKey, Owner, stream_name
from unspool.testing.flowing import flow
from unspool.testing.simulation.log_truth import LogTruth
from unspool.testing.simulation.node import Node, not_served
from unspool.viewer import End, Viewer

if TYPE_CHECKING:
    from unspool.testing.simulation.world import World

_SLOW: Final = 0.5
"""Seconds, at most, that a slow reader takes over what it was given."""


def _frame(key: GenerationKey, record: Record) -> bytes:
    # A dialect of the simulation's own: the payload is JSON on one line.
    return b"%d %s %s\n" % (record.offset, record.type.encode(), record.payload)


def _records(frames: bytes) -> Iterator[Record]:
    # One at a time: a client that drops in the middle of a large piece has not looked at the rest of it.
    begin = 0
    while begin < len(frames):
        end = frames.index(b"\n", begin)
        offset, kind, payload = frames[begin:end].split(b" ", 2)
        yield Record(int(offset), kind.decode(), payload)
        begin = end + 1


class Connection:
    """One response of one replica to one client."""

    __slots__ = ("answered", "client", "frames", "last", "node", "snapshot", "task", "viewer", "world")

    def __init__(self, world: World, client: Client, node: Node, *, snapshot: bool, frames: bool) -> None:
        self.world = world
        self.client = client
        self.node = node
        self.snapshot = snapshot
        self.frames = frames
        self.answered = False
        self.last = world.truth.last(client.name_of_stream)
        self.viewer: Viewer | None = None
        node.connections[self] = None
        self.task = world.loop.create_task(self._serve(), name="client", context=node.domain.context)

    async def _serve(self) -> None:
        client = self.client
        key = client.key
        try:
            viewer = self.viewer = await self.node.manager.view(
                client.stream_id, user=client.owner.user, tenant=client.owner.tenant, after=client.position,
                generation=key.generation if key is not None else None, snapshot=self.snapshot,
            )  # fmt: skip
            client.attached(self, viewer)
            async with viewer:
                while True:
                    if self.frames:
                        await flow(viewer, _frame, self._write)
                        frames = await viewer.frames(_frame)
                        records = None if frames is None else _records(frames)
                    else:
                        records = await viewer.records()
                    if records is None:
                        break
                    pause = client.receive(self, records)
                    if pause is None:
                        break
                    if pause:
                        await asyncio.sleep(pause)
        except UnspoolError as error:
            self.node.connections.pop(self, None)
            client.refused(self, error)
        else:
            self.node.connections.pop(self, None)
            if client.connection is self:
                client.over(self, viewer.end)

    def _write(self, frames: bytes) -> bool:
        # The way of a live stream: nothing is taken where the reader would have to be waited for.
        client = self.client
        if client.connection is not self or self.world.random.random() < 0.3:
            return False
        if client.receive(self, _records(frames)) is None and self.viewer is not None:
            self.viewer.close()
        return True

    def hang_up(self) -> None:
        """The client is gone; its replica learns of it in its own time."""
        self.node.connections.pop(self, None)
        self.world.loop.call_soon(self._gone, context=self.node.domain.context)

    def _gone(self) -> None:
        if self.viewer is not None and self.world.random.random() < 0.5:
            self.viewer.close()
        else:
            self.task.cancel()

    def broken(self) -> None:
        """The replica is gone; the client learns of it."""
        self.world.loop.call_soon(self.client.over, self, None, context=self.world.clients.context)


class Client:
    """A viewer of one of its user's streams, one generation after the other."""

    def __init__(self, world: World, number: int) -> None:
        random = world.random
        self.name = f"client {number}"
        self.stream_id = ""
        self.owner = Owner()
        self.key: GenerationKey | None = None
        self.log: LogTruth | None = None
        self.position = 0
        self.connection: Connection | None = None
        self.fold: Fold | None = None
        self.finished = True
        self.behind: tuple[object, int] = (None, 0)  # what it had when it was last looked at, and since when
        self.behind_since = 0.0
        self._world = world
        self._attached_before = False
        self._slow = random.random() < 0.2
        self._frames = random.random() < 0.3
        self._folds = random.random() < 0.15
        self._snapshots = random.choice((0.0, 0.05, 0.2))
        self._first = False
        self._impulse()

    def __repr__(self) -> str:
        return f"<{self.name} of {self.key or self.name_of_stream} at {self.position}>"

    @property
    def name_of_stream(self) -> str:
        """The internal name of the stream that it follows."""
        return stream_name(self.stream_id, self.owner.tenant)

    # its own moves

    def _impulse(self) -> None:
        world = self._world
        if self.connection is None:
            self.connect()
        elif not world.ending and world.random.random() < 0.5:
            self.drop()
        pause = world.random.expovariate(1.0) * world.profile.impatience
        world.loop.call_later(pause, self._impulse, context=world.clients.context)

    def _choose(self) -> bool:
        """A stream, and where to begin; False when there is none yet."""
        world, random = self._world, self._world.random
        if world.ending:
            return False
        logs = world.recent
        if not logs:
            return False
        log = random.choice(logs)
        self.stream_id, self.owner = log.job.stream_id, log.job.owner
        self.key = self.log = None
        self.position = 0
        self.fold = Fold() if self._folds else None
        if random.random() < 0.3:  # it was here before, as far as this server can know
            self.key, self.log = log.key, log
            if not self._folds:
                self.position = random.randint(0, log.last if log.active else log.last - 1)
        self.finished = False
        self._attached_before = False
        return True

    def connect(self) -> None:
        world, random = self._world, self._world.random
        if self.finished and not self._choose():
            return
        ready = [node for node in world.nodes if node.up]
        if not ready:
            return
        node = ready[int(random.random() * len(ready))]
        self._first = True
        snapshot = random.random() < self._snapshots
        self.connection = Connection(world, self, node, snapshot=snapshot, frames=self._frames)

    def drop(self, *, noticed: bool = False) -> None:
        """Go away without a word; mostly to come back at once. `noticed`: the replica sees it while it writes."""
        connection, self.connection = self.connection, None
        if connection is None:
            return
        world = self._world
        world.dropped += 1
        if not noticed:
            connection.hang_up()
        if world.random.random() < 0.8:
            world.loop.call_soon(self._return, context=world.clients.context)

    def _return(self) -> None:
        if self.connection is None:
            self.connect()

    # what it is told

    def attached(self, connection: Connection, viewer: Viewer) -> None:
        world = self._world
        if connection is not self.connection:
            return
        connection.answered = True
        if self.log is None:
            self.key = viewer.tail.key
            self.log = world.truth.log(self.key)
        if self._attached_before:
            world.reconnects += 1
        self._attached_before = True
        world.note("%s on %s after %d%s", self, connection.node.replica, self.position, " +" * connection.snapshot)

    def receive(self, connection: Connection, records: Iterable[Record]) -> float | None:
        """Take what comes, or a part of it. The answer: seconds until it reads on, None when it was seen to leave."""
        world, log = self._world, self.log
        if connection is not self.connection or log is None:
            return 0.0  # sent to somebody who is gone
        random, drop = world.random.random, 0.0 if world.ending else world.profile.drop
        for record in records:
            if record.type == SYNC:
                self._sync(connection, log, record)
            else:
                self._take(connection, log, record)
            self._first = False
            if self.fold is not None:
                self.fold.apply(record)
            if record.type in TERMINAL:
                self.finished = True
                self._compare(log)
            if drop and random() < drop:
                noticed = random() < 0.7
                self.drop(noticed=noticed)
                return None if noticed else 0.0
        return random() * _SLOW if self._slow and random() < 0.1 else 0.0

    def _take(self, connection: Connection, log: LogTruth, record: Record) -> None:
        world = self._world
        if self._first and connection.snapshot:
            world.fail("snapshot", f"{self} asked for a snapshot, and got {record.type} first")
        expected = log.next_public(self.position)
        if record is not expected and record != expected:
            self._wrong(record, expected)
        self.position = record.offset
        world.delivered += 1

    def _wrong(self, record: Record, expected: Record | None) -> None:
        world = self._world
        if record.offset <= self.position:
            world.repeated += record.offset == self.position
            world.disordered += record.offset != self.position
            kind = "repeated" if record.offset == self.position else "out of order"
        elif expected is None or record.offset == expected.offset:
            kind = "altered"
        else:
            world.lost += 1
            kind = "lost"
        world.fail("viewers", f"{self} got {record}, next is {expected}: {kind}")

    def _sync(self, connection: Connection, log: LogTruth, record: Record) -> None:
        world = self._world
        world.syncs += 1
        if not (self._first and connection.snapshot):
            if record.data.get("reason") != "trimmed":
                world.fail("snapshot", f"{self} got a snapshot, and had not asked for one")
            elif log.first <= self.position + 1:
                world.fail("positions", f"{self} was told that its position was trimmed; the log begins at {log.first}")
        if record.offset < self.position:
            world.fail("viewers", f"{self} was sent back to {record.offset} by a snapshot: repeated")
        world.truth.sync(log, record)
        self.position = record.offset

    def _compare(self, log: LogTruth) -> None:
        """What it would show now is what was sealed."""
        if self.fold is None or log.terminal is None:
            return
        self._world.compared += 1
        expected = fold(record for record in log.records if not record.internal)
        shown = replace(self.fold.snapshot(), title=expected.title)  # a sync has the title of the job's record, too
        if shown != expected:
            self._world.fail("snapshot", f"{self} shows {shown}, and sealed was {expected}")

    def refused(self, connection: Connection, error: UnspoolError) -> None:
        """The replica has answered with an error: there must be a reason."""
        world = self._world
        if connection is not self.connection:
            return
        self.connection = None
        if not_served(error):
            return
        if isinstance(error, Gone | NotFound) and self._may_be_gone(connection):
            self.finished = True
            world.gone += 1
            return
        world.fail("viewers", f"{self} on {connection.node.replica} was refused: {error!r}")

    def _may_be_gone(self, connection: Connection) -> bool:
        if self.log is not None:
            return self.log.deleted
        # A generation that was created while it waited for the answer need not be in it.
        return connection.last.deleted or self._world.truth.last(self.name_of_stream).deleted

    def over(self, connection: Connection, end: End | None) -> None:
        """The response has ended; None: the connection broke."""
        if connection is not self.connection:
            return
        self.connection = None
        if end is not End.FINISHED:
            return
        log = self.log
        if log is not None and (log.active or log.next_public(self.position) is not None):
            self._world.fail("viewers", f"{self} was told that it has everything; {log!r}: lost")
            self._world.lost += 1
        self.finished = True
