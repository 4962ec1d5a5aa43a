"""The users: each starts turn after turn on a stream of its own, has it watched, and stops or replaces it at times."""

from __future__ import annotations

import asyncio
import time
import uuid
from random import Random

import httpx2
import msgspec

from tests.chaos import truth
from tests.chaos.report import Fault
from tests.chaos.turns import Stopped, Turn
from tests.chaos.viewers import Viewer
from tests.chaos.world import Node, World
from tests.integration.redis.replica import Script

_TRANSIENT = (500, 502, 503)
_AGAIN = 0.1
_TIMEOUT = 30.0


class User:
    """One stream and its turns."""

    def __init__(self, world: World, number: int, http: httpx2.AsyncClient) -> None:
        self.stream = f"s{number}"
        self.turns: list[Turn] = []
        self._world = world
        self._draw = Random(f"{world.settings.seed}/{number}")
        self._http = http
        self._highest = 0
        self._asked: set[str] = set()  # processes, for the start that is under way

    async def live(self) -> None:
        """Turn after turn until the world is over, each looked at when it has ended. Raises Fault."""
        checking: list[asyncio.Task[None]] = []
        while not self._world.over.is_set():
            turn = await self._begin()
            if turn is None:
                continue
            if self._draw.random() < 0.25:
                turn.stopping = asyncio.create_task(self._stop(turn))
            turn.followed_up = self._draw.random() < 0.15
            checking.append(asyncio.create_task(truth.check(self._world, turn)))
            if turn.followed_up:
                await asyncio.sleep(self._draw.uniform(0.1, 1.0))
            else:
                await asyncio.wait(checking[-1:])
            for task in [task for task in checking if task.done()]:
                checking.remove(task)
                task.result()
            del self.turns[:-20]
        await asyncio.gather(*checking)

    async def _begin(self) -> Turn | None:
        draw, settings = self._draw, self._world.settings
        paid = self._world.books is not None and draw.random() < 0.5
        script = Script(
            count=draw.randint(1, 120), delay=draw.choice((0.0, 0.005, 0.02)),
            tool=draw.choice((0.0, 0.0, draw.uniform(0.1, 2.0))), deaf=draw.choice((0.0, 0.0, 0.0, 1.5)),
            calls=draw.randint(1, 4) if paid else 0,
        )  # fmt: skip
        resumable = draw.random() < 0.4
        begun = time.monotonic()
        generation = await self._start(script, ("/paid" if paid else "") + ("/again" if resumable else ""))
        if generation is None:
            return None
        if generation <= self._highest:
            raise Fault(f"{self.stream} is at generation {generation}, and was at {self._highest} before")
        self._highest = generation
        turn = Turn(self.stream, generation, script, resumable, begun, frozenset(self._asked), paid)
        self._world.report.counts["generations"] += 1
        turn.viewers = [
            Viewer(self._world, self.stream, generation, Random(draw.random()), begun) for _ in range(settings.viewers)
        ]
        turn.reading = [asyncio.create_task(viewer.read()) for viewer in turn.viewers]
        self.turns.append(turn)
        return turn

    async def _start(self, script: Script, prefix: str) -> int | None:
        """Start a generation, under one request id however often that takes. A ledger that is away refuses with 503;
        a balance that does not suffice (402) would be a lie: the account is rich."""
        counts = self._world.report.counts
        self._asked.clear()
        body = {
            "messages": [{"role": "user", "content": msgspec.json.encode(script).decode()}],
            "request_id": uuid.UUID(int=self._draw.getrandbits(128)).hex,
        }
        while not self._world.over.is_set():
            answered = await self._post(f"{prefix}/v1/streams/{self.stream}/generations", body, self._asked)
            if answered is not None and answered.status_code in (200, 201):
                return answered.json()["generation"]
            if answered is not None and answered.status_code not in _TRANSIENT:
                raise Fault(f"a start on {self.stream} was answered {answered.status_code}: {answered.text}")
            counts["starts sent again" if answered is None else "starts refused"] += 1
            await asyncio.sleep(_AGAIN)
        return None

    async def _stop(self, turn: Turn) -> Stopped | None:
        world = self._world
        await asyncio.sleep(self._draw.uniform(0.0, 2.0))
        world.report.counts["stops"] += 1
        while True:
            asked = time.monotonic()
            answered = await self._post(f"/v1/streams/{turn.stream}/abort", {"generation": turn.generation})
            if answered is not None and answered.status_code == 200:
                break
            if answered is not None and answered.status_code == 410:
                return None  # it took so long to be heard that retention was over, or it is lost
            if answered is not None and answered.status_code == 404 and world.emptied_since(turn.begun):
                return None
            if answered is not None and answered.status_code not in _TRANSIENT:
                raise Fault(f"Stop of {turn} was answered {answered.status_code}: {answered.text}")
            await asyncio.sleep(_AGAIN)
        now, found = time.monotonic(), answered.json()
        quiet = not world.troubled(asked, now) and not any(asked - 1 < node.killed < now for node in world.nodes)
        if found["outcome"] == "stopped":
            world.report.times["Stop → answer" + ("" if quiet else ", in trouble")].append(now - asked)
            if quiet and now - asked > world.settings.answered + world.settings.slack:
                raise Fault(f"Stop of {turn} was answered after {now - asked:.2f} s")
        return Stopped(found["outcome"], found["status"], found["text"], found["final"])

    async def _post(self, path: str, body: object, asked: set[str] | None = None) -> httpx2.Response | None:
        """The answer of some replica, whose process is added to `asked`; None where it may not have been heard."""
        nodes: list[Node] = [node for node in self._world.everyone if node.replica is not None]
        if not nodes:
            return None
        node = self._draw.choice(nodes)
        replica = node.replica
        assert replica is not None
        if asked is not None:
            asked.add(node.process)
        try:
            return await self._http.post(f"{replica.url}{path}", json=body, headers={"x-user": "u"}, timeout=_TIMEOUT)
        except httpx2.TransportError:
            return None
