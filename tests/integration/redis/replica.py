"""A replica as a process of its own: the native routes over a store, with runs that do what a request tells them.

    python -m tests.integration.redis.replica --store redis://127.0.0.1:6379 --options '{"lease": 2.0}'

Prints its URL and process id as one line of JSON once it answers; `GET /census` tells what it holds. The user is
whoever the header `x-user` names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections import Counter, deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from unspool import GenerationManager, Options
from unspool.errors import ConfigurationError, GenerationStopped, StoreUnavailable
from unspool.http import StartRequest, StreamOptions, create_app, router
from unspool.http.server import serve
from unspool.producer import Generation

if TYPE_CHECKING:
    from unspool.ledger import Ledger


ACCOUNT = "team"
"""Who pays for what is started under /paid."""


class Script(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a run does. It says the numbers from 1 to `count` as text, `delay` seconds apart, then waits in a tool.

    `gates`: numbers after which it waits until a file exists, which the test makes: see `processes.Gate`.
    `usage`: models whose usage it reports first. `calls`: numbers before each of which it makes a model call.
    `tool`: seconds in the tool, or the file that ends it.
    `deaf`: seconds for which it does not heed a cancellation, and speaks on.
    """

    count: int = 10
    delay: float = 0.0
    gates: dict[int, str] = {}
    usage: list[str] = []
    calls: int = 0
    tool: float | str = 0.0
    deaf: float = 0.0


def usage_of(step: int) -> dict[str, int]:
    """What a model call of a run uses."""
    return {"prompt_tokens": 100 + step, "completion_tokens": 10}


def cost_of(step: int) -> int:
    """Nano-USD that it costs: see `open_ledger`."""
    used = usage_of(step)
    return used["prompt_tokens"] * 1_000 + used["completion_tokens"] * 2_000


def open_ledger(url: str, **options: Any) -> Ledger:
    """The ledger of replicas and of whoever looks at their books, not yet open."""
    from unspool.ledger import Ledger, LedgerOptions, Prices, Rates

    prices = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))})
    return Ledger.from_url(url, pricer=prices, options=LedgerOptions(**options))


class Stalls:
    """Times when this process did not get to its event loop: nothing that it must do in time was done then. `seen`:
    from when to when, on the clock of the machine."""

    EVERY = 0.05
    LONG = 0.25

    def __init__(self) -> None:
        self.seen: deque[tuple[float, float]] = deque(maxlen=1000)
        self._last = 0.0

    def watch(self) -> None:
        """Look from now on. A timer and no task: those are counted."""
        self._last = time.monotonic()
        asyncio.get_running_loop().call_later(self.EVERY, self._tick)

    def _tick(self) -> None:
        if time.monotonic() - self._last > self.LONG:
            self.seen.append((self._last, time.monotonic()))
        self.watch()


def is_open(gate: str) -> bool:
    return os.path.exists(gate)


async def passed(gate: str) -> None:
    """Wait until a gate is open."""
    while not is_open(gate):
        await asyncio.sleep(0.01)


class Runs:
    """The runs of this process, and what is known of them here and nowhere else."""

    def __init__(self) -> None:
        self.said: dict[str, int] = {}
        """The last number that a run has handed over, whether the store has it or not."""
        self.late: dict[str, int] = {}
        """How often it spoke after it was cancelled, and was refused."""
        self.signalled: dict[str, float] = {}
        """When a run was cancelled, on the clock of the machine."""

    async def __call__(self, gen: Generation, request: StartRequest) -> None:
        script = msgspec.json.decode(request.messages[-1]["content"], type=Script)
        try:
            await self._play(gen, script)
        except asyncio.CancelledError:
            self.signalled[str(gen.key)] = time.monotonic()
            if script.deaf:
                await self._speak_on(gen, script)
            raise

    async def _play(self, gen: Generation, script: Script) -> None:
        begun = (await gen.snapshot()).text.split() if gen.attempt > 1 else []
        for model in script.usage:
            await gen.usage(gen.call_id(), model=model, input_tokens=3, output_tokens=5)
        for number in range(len(begun) + 1, script.count + 1):
            # Asked before each number, and not once after one, so that the run of a new owner waits as well.
            if (gate := script.gates.get(number - 1)) is not None:
                await passed(gate)
            if number <= script.calls:
                async with gen.model_call(provider="test", model="m", step=str(number)) as call:
                    await asyncio.sleep(script.delay)
                    call.observe({"choices": [], "usage": usage_of(number)})
            await gen.text(f"{number} ")
            self.said[str(gen.key)] = number
            await asyncio.sleep(script.delay)
        if (gate := script.gates.get(script.count)) is not None:
            await passed(gate)
        if script.tool:
            await gen.tool_call("call", "wait", {"until": script.tool})
            await (passed(script.tool) if isinstance(script.tool, str) else asyncio.sleep(script.tool))
            await gen.tool_result("call", "waited")

    async def _speak_on(self, gen: Generation, script: Script) -> None:
        key, until = str(gen.key), time.monotonic() + script.deaf
        while time.monotonic() < until:
            try:
                await gen.text("late ")
            except GenerationStopped:
                self.late[key] = self.late.get(key, 0) + 1
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass


def census(manager: GenerationManager, runs: Runs, stalls: Stalls) -> dict[str, Any]:
    """What this process holds."""
    replica = manager.replica
    tasks = Counter((task.get_name()).split(" ")[0].rstrip("-0123456789") for task in asyncio.all_tasks())
    return {
        "tasks": dict(tasks),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "runs": sorted(map(str, replica.runs)),
        "viewers": len(replica.viewers),
        "tails": sorted(map(str, replica.tails)),
        "watched": len(replica.channel._watched),  # pyright: ignore[reportAttributeAccessIssue]
        "totals": dict(replica.settler.totals),
        "said": runs.said,
        "late": runs.late,
        "signalled": runs.signalled,
        "stalls": list(stalls.seen),
    }


def authenticate(connection: HTTPConnection) -> str | None:
    return connection.headers.get("x-user", "u")


def main() -> int:
    parser = argparse.ArgumentParser(description="A replica for tests.")
    parser.add_argument("--store", required=True)
    parser.add_argument("--name")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--options", type=json.loads, default={}, help="fields of unspool.Options, as JSON")
    parser.add_argument("--heartbeat", type=float, default=15.0)
    parser.add_argument("--resumable", help="the name under which other replicas go on with its runs")
    parser.add_argument("--ledger", help="URL of the ledger that pays for what is started under /paid")
    parser.add_argument("--ledger-options", type=json.loads, default={}, help="fields of LedgerOptions, as JSON")
    given = parser.parse_args()
    logging.basicConfig(format=f"%(asctime)s {given.name} %(levelname)s %(name)s: %(message)s", level="INFO")
    options = Options(**given.options)
    made = GenerationManager.from_url(given.store, options=options)
    ledger = None if given.ledger is None else open_ledger(given.ledger, **given.ledger_options)
    manager = GenerationManager(made.store, made._transport, options=options, replica=given.name, ledger=ledger)
    runs, stalls = Runs(), Stalls()

    async def tell(_: Request) -> Response:
        return JSONResponse(census(manager, runs, stalls))

    app = create_app(
        manager,
        run=runs,
        resumable=given.resumable,
        authenticate=authenticate,
        page=False,
        stream_options=StreamOptions(heartbeat=given.heartbeat, retry=50),
    )
    app.router.routes.insert(0, Route("/census", tell))
    again = router(manager, run=runs, resumable="again", authenticate=authenticate)
    app.router.routes.append(Mount("/again", app=again))  # what is started here is gone on with by others
    if ledger is not None:
        for path, resumable in (("/paid/again", "paid again"), ("/paid", None)):
            paid = router(manager, run=runs, resumable=resumable, authenticate=authenticate, account=ACCOUNT)
            app.router.routes.append(Mount(path, app=paid))

    def ready(url: str) -> None:
        stalls.watch()
        print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)

    try:
        serve(app, port=given.port, drain=options.drain, authenticated=True, ready=ready)
    except (ConfigurationError, StoreUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
