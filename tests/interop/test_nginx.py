"""Behind nginx, as it comes and as it is set up for streams: events at once, Stop, resume, heart-beats, time-outs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from functools import partial
from pathlib import Path

import httpx2
import pytest

from tests.conftest import Serving
from tests.interop.nginx import fronting
from tests.interop.plain_server import on_hypercorn
from tests.interop.story import STREAM, Got, Returns, Watch, cut_off, port_of
from unspool import Generation, GenerationManager
from unspool.client import Client, Received, State
from unspool.http import StartRequest, StreamOptions, create_app
from unspool.sse import KEEP_ALIVE, Decoder

pytestmark = pytest.mark.timeout(300)
Tell = Callable[[str], None]
Front = Callable[[int], AbstractAsyncContextManager[int]]

# What a distribution's nginx does unless it is told otherwise, and more: whatever can be buffered is.
BUFFERED = "proxy_buffering on; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;"
# What is recommended for streams.
UNBUFFERED = 'proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";'
SETTINGS = pytest.mark.parametrize("settings", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])
EVENTS = 20


@pytest.fixture(params=["ours", "hypercorn"])
def any_serving(request: pytest.FixtureRequest, serving: Serving) -> Serving:
    """uvicorn as we use it answers in chunks, whatever it is asked; hypercorn answers HTTP/1.0 by HTTP/1.0."""
    return serving if request.param == "ours" else on_hypercorn


@pytest.fixture
def front(nginx: str, tmp_path: Path) -> Callable[[str], Front]:
    """From the lines in its server block to an nginx that can be put in front of a port."""
    return lambda settings: partial(fronting, nginx, tmp_path, settings=settings)


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def numbers(records: list[Received]) -> list[int]:
    return [record.data["value"] for record in records if record.type == "custom"]


@SETTINGS
async def test_each_event_arrives_before_the_next_is_made(
    any_serving: Serving, front: Callable[[str], Front], settings: str
) -> None:
    """In lock-step: the run makes an event once the reader has told it of the one before."""
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def run(gen: Generation, request: StartRequest) -> None:
        for number in range(EVENTS):
            await gen.emit("custom", {"name": "n", "value": number})
            async with asyncio.timeout(60):
                assert await arrived.get() == number

    app = create_app(GenerationManager(), run=run)
    async with any_serving(app) as server, front(settings)(port_of(server)) as port, Client(url_of(port)) as client:
        await client.start(STREAM, "hello")
        records: list[Received] = []
        async for record in client.follow(STREAM):
            records.append(record)
            if record.type == "custom":
                arrived.put_nowait(record.data["value"])
        assert numbers(records) == list(range(EVENTS))
        assert records[-1].type == "completed"


async def test_without_the_header_nginx_holds_everything_back(front: Callable[[str], Front]) -> None:
    """What the test above is about: `X-Accel-Buffering: no`, and what comes of it where it is not obeyed.

    Chunks nginx passes on as they come, whatever the setting; what comes without them it gathers.
    """
    ended = asyncio.Event()

    async def run(gen: Generation, request: StartRequest) -> None:
        for number in range(EVENTS):
            await gen.emit("custom", {"name": "n", "value": number})
            await asyncio.sleep(0.02)
        ended.set()

    app = create_app(GenerationManager(), run=run)
    settings = f"{BUFFERED} proxy_ignore_headers X-Accel-Buffering;"
    async with on_hypercorn(app) as server, front(settings)(port_of(server)) as port, Client(url_of(port)) as client:
        await client.start(STREAM, "hello")
        records: list[Received] = []
        async for record in client.follow(STREAM):
            assert ended.is_set(), "so it is not the header that makes the difference"
            records.append(record)
        assert numbers(records) == list(range(EVENTS))


async def test_an_event_stream_is_not_compressed_and_the_rest_is(
    serving: Serving, front: Callable[[str], Front]
) -> None:
    """nginx would compress it, block by block or not; the server says that it must not be transformed."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.text("word " * 100)

    app = create_app(GenerationManager(), run=run)
    async with (
        serving(app) as server,
        front(BUFFERED)(port_of(server)) as port,
        httpx2.AsyncClient(base_url=url_of(port), headers={"accept-encoding": "gzip"}, timeout=60) as client,
    ):
        await client.post(f"/v1/streams/{STREAM}/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        stream = await client.get(f"/v1/streams/{STREAM}/events")
        assert stream.headers.get("content-encoding", "identity") == "identity"
        assert stream.content.startswith(KEEP_ALIVE)
        assert stream.text.endswith("\n\n")
        assert (await client.get(f"/v1/streams/{STREAM}")).headers["content-encoding"] == "gzip"


@SETTINGS
async def test_stop_and_what_the_reader_sees_of_it(
    serving: Serving, front: Callable[[str], Front], settings: str
) -> None:
    """Stop is answered while a reader follows over the same nginx, and both get the same text and end."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.text("Rivers run — 日本語")
        await asyncio.Event().wait()

    app = create_app(GenerationManager(), run=run)
    async with serving(app) as server, front(settings)(port_of(server)) as port, Client(url_of(port)) as client:
        await client.start(STREAM, "hello")
        async with aclosing(client.follow(STREAM)) as records:
            text = (await anext(records)).data["text"]
            outcome = await client.stop(STREAM)
            rest = [record async for record in records]
        assert (outcome.outcome, outcome.text) == ("stopped", text)
        assert [record.type for record in rest] == ["aborted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "setting", "server"),
    [
        ("before", "buffered", "ours"),
        ("before", "unbuffered", "hypercorn"),
        ("behind", "buffered", "ours"),
        ("behind", "unbuffered", "ours"),
        ("behind", "buffered", "hypercorn"),
    ],
)
async def test_resume_with_cuts_on_either_side(
    serving: Serving, front: Callable[[str], Front], side: str, setting: str, server: str, tell: Tell
) -> None:
    """Connections are cut between the client and nginx, or between nginx and the server; the client is exact.

    In the last case what is cut looks like what has ended: nginx asks for HTTP/1.0, and gets an answer without chunks.
    """
    nginx = front(BUFFERED if setting == "buffered" else UNBUFFERED)
    nearer, farther = (None, nginx) if side == "before" else (nginx, None)
    under = serving if server == "ours" else on_hypercorn
    async with (
        cut_off(under, seed=11, cuts=6, least=100, nearer=nearer, farther=farther) as story,
        Client(story.url) as client,
    ):
        got = [Got(record.id, record.type, record.data) async for record in client.follow(STREAM)]
        tell(await story.verdict(f"unspool.client.Client, cut {side} nginx ({setting}, {server})", got))


@pytest.mark.slow
@SETTINGS
async def test_heart_beats_keep_an_idle_stream_open(
    serving: Serving, front: Callable[[str], Front], settings: str
) -> None:
    """Silence of more than nginx's `proxy_read_timeout` does no harm where heart-beats are more frequent."""
    idle = asyncio.Event()
    returns = Returns()

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.emit("custom", {"name": "n", "value": 0})
        await idle.wait()
        await gen.emit("custom", {"name": "n", "value": 1})

    app = create_app(GenerationManager(), run=run, stream_options=StreamOptions(heartbeat=0.25))
    app.add_middleware(Watch, returns=returns)
    settings += " proxy_read_timeout 3s;"  # twelve heart-beats: a busy machine does not miss them all
    async with (
        serving(app) as server,
        front(settings)(port_of(server)) as port,
        httpx2.AsyncClient(base_url=url_of(port), timeout=60) as client,
    ):
        await client.post(f"/v1/streams/{STREAM}/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        decoder = Decoder()
        beats, types = 0, list[str]()
        async with client.stream("GET", f"/v1/streams/{STREAM}/events") as response:
            async for data in response.aiter_raw():
                beats += data.count(KEEP_ALIVE)
                types += [message.event for message in decoder.feed(data)]
                if beats > 14:  # three and a half seconds
                    idle.set()
        assert types == ["custom", "custom", "completed"]
        assert len(returns.positions) == 1


@pytest.mark.slow
@SETTINGS
async def test_a_stream_that_nginx_cuts_for_its_silence_is_taken_up(
    serving: Serving, front: Callable[[str], Front], settings: str
) -> None:
    """Heart-beats that are too rare for nginx cost a reconnect, and nothing else."""
    returns = Returns()

    async def run(gen: Generation, request: StartRequest) -> None:
        for number in range(10):
            await gen.emit("custom", {"name": "n", "value": number})
            if number == 4:
                await returns.reach(2)

    app = create_app(GenerationManager(), run=run, stream_options=StreamOptions(heartbeat=30, retry=5))
    app.add_middleware(Watch, returns=returns)
    settings += " proxy_read_timeout 1s;"
    async with serving(app) as server, front(settings)(port_of(server)) as port, Client(url_of(port)) as client:
        await client.start(STREAM, "hello")
        states: list[State] = []
        records = [record async for record in client.follow(STREAM, on_state=states.append)]
        assert numbers(records) == list(range(10))
        assert [record.offset for record in records] == list(range(1, 12))
        assert records[-1].type == "completed"
        assert returns.positions[:2] == [0, 5]
        assert "waiting" in [state.name for state in states]
