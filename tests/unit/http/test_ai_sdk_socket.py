"""The AI SDK's chat over a WebSocket: its frames, who may open it, and every way in which it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.requests import HTTPConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests import waiting
from tests.conftest import Serving
from tests.unit.http.ui_message_checker import Checker
from unspool import GenerationManager, Options
from unspool.http import Identity, StartRequest, StreamOptions, create_app
from unspool.http.dialects import ai_sdk_socket
from unspool.producer import Generation

OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)
Json = dict[str, Any]


async def hello(gen: Generation, request: StartRequest) -> None:
    for word in ("one ", "two ", "three"):
        await gen.text(word)
        await gen.snapshot()


async def endless(gen: Generation, request: StartRequest) -> None:
    await gen.text("begun")
    await gen.snapshot()
    await asyncio.Event().wait()


def authenticate(request: HTTPConnection) -> Identity | None:
    user = request.query_params.get("user") or request.headers.get("x-user")
    return Identity(user) if user else None


@asynccontextmanager
async def socket(client: httpx2.AsyncClient, query: str = "", **options: Any) -> AsyncGenerator[ClientConnection, None]:
    url = f"{str(client.base_url).rstrip('/').replace('http', 'ws')}/api/chat/ws{query}"
    async with connect(url, compression=None, **options) as opened:
        yield opened


async def open_and_close(client: httpx2.AsyncClient, query: str = "", **options: Any) -> None:
    async with socket(client, query, **options):
        pass


async def say(opened: ClientConnection, kind: str, request_id: str = "r", **fields: Any) -> None:
    common: Json = {} if kind == "abort" else {"id": "c", "headers": {}, "body": {}, "metadata": None}
    if kind == "send":
        common |= {"trigger": "submit-message", "messages": [{"id": "u1", "role": "user", "parts": []}]}
    await opened.send(json.dumps({"type": kind, "requestId": request_id, **common, **fields}))


async def answer(opened: ClientConnection, request_id: str = "r") -> list[Json]:
    """The frames of a request to its end."""
    frames: list[Json] = []
    while not frames or frames[-1]["type"] not in {"end", "no-active", "error"}:
        frame = json.loads(await opened.recv())
        assert frame.pop("requestId") == request_id
        frames.append(frame)
    return frames


async def closed(opened: ClientConnection) -> int | None:
    """The code with which the other side closes it."""
    with pytest.raises(ConnectionClosed):
        await until(opened, "nothing")
    return opened.close_code


async def until(opened: ClientConnection, kind: str) -> None:
    while json.loads(await opened.recv()).get("chunk", {}).get("type") != kind:
        pass


async def test_send_and_resume(serving: Serving) -> None:
    """Chunks are numbered from 0; a resume has all of them, or those after the last one that is known of a run."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client, socket(client) as opened:
        await say(opened, "resume")
        assert await answer(opened) == [{"type": "no-active"}]
        await say(opened, "send")
        sent = await answer(opened)
        assert [frame["type"] for frame in sent] == ["start", *["chunk"] * (len(sent) - 2), "end"]
        assert [frame["sequence"] for frame in sent[1:-1]] == list(range(len(sent) - 2))
        assert Checker().all([frame["chunk"] for frame in sent[1:-1]]).text == "one two three"
        await say(opened, "resume")
        assert await answer(opened) == sent
        await say(opened, "send", "again")
        assert await answer(opened, "again") == sent
        run = sent[1]["chunk"]["messageMetadata"]["runId"]
        for known in range(len(sent) - 2):
            await say(opened, "resume", lastSequence=known, runId=run)
            assert await answer(opened) == [sent[0], *sent[known + 2 :]]
        await say(opened, "resume", lastSequence=99, runId=run)
        assert (await answer(opened))[-1]["type"] == "error"


async def test_a_send_is_idempotent_by_its_header_in_any_case(serving: Serving) -> None:
    """A repeated send attaches: its chunks are those of the first one."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client, socket(client) as opened:
        sent = list[list[Json]]()
        for name in ("Idempotency-Key", "idempotency-key", "IDEMPOTENCY-KEY"):
            await say(opened, "send", messages=[{"role": "user", "parts": []}], headers={name: "one"})
            sent.append(await answer(opened))
        assert sent == sent[:1] * 3


async def test_a_sequence_of_another_run_is_refused(serving: Serving) -> None:
    """Of an earlier message, or of no run that is named: an error that names the run, and not a chunk."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client, socket(client) as opened:
        await say(opened, "send")
        earlier = (await answer(opened))[1]["chunk"]["messageMetadata"]["runId"]
        await say(opened, "send", "next", messages=[{"id": "u2", "role": "user", "parts": []}])
        run = (await answer(opened, "next"))[1]["chunk"]["messageMetadata"]["runId"]
        for named in ({"runId": earlier}, {}):
            await say(opened, "resume", lastSequence=1, **named)
            refused = await answer(opened)
            assert ([frame["type"] for frame in refused], run in refused[0]["errorText"]) == (["error"], True)


async def test_many_requests_share_a_socket(serving: Serving) -> None:
    """Chats of their own, at once; an id is used once, and there is a bound."""
    async with serving(create_app(GenerationManager(options=OPTIONS), run=endless)) as client, socket(client) as opened:
        for number in range(32):
            await say(opened, "send", f"r{number}", id=f"c{number}")
        seen: set[str] = set()
        while len(seen) < 32:
            frame = json.loads(await opened.recv())
            seen |= {frame["requestId"]} if frame.get("chunk", {}).get("type") == "text-delta" else set()
        for request_id in ("r0", "r32"):
            await say(opened, "resume", request_id, id="c0")
            assert "once" in json.loads(await opened.recv())["errorText"]


async def test_an_abort_is_a_stop_and_a_close_is_none(serving: Serving) -> None:
    """Also for what was resumed."""
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=endless)) as client:
        async with socket(client) as opened:
            await say(opened, "send")
            await until(opened, "text-delta")
        async with socket(client) as opened:
            await say(opened, "resume")
            await until(opened, "text-delta")
            await say(opened, "abort", "nothing")
            await say(opened, "abort")
        async for _ in manager.follow("c"):
            pass
        assert (await manager.job("c")).status == "aborted"
        assert (await manager.snapshot("c")).text == "begun"


@pytest.mark.parametrize("then", ["stays", "closes", "elsewhere"])
async def test_who_asks_anew_has_not_stopped(serving: Serving, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a page does after a remount: it aborts, and resumes. Also where the socket is closed right after that; and
    another page's question, that came since, is not what was aborted."""
    pauses = waiting.Pauses(monkeypatch, ai_sdk_socket, ai_sdk_socket._PAUSE)
    manager = GenerationManager(options=OPTIONS)
    async with serving(create_app(manager, run=endless)) as client, socket(client) as opened:
        for request_id, chat in (("a", "c"), ("other", "d")):
            await say(opened, "send", request_id, id=chat)
            await until(opened, "text-delta")
        await say(opened, "abort", "a")
        await waiting.until(lambda: pauses.begun == 1)
        if then == "elsewhere":
            asked = {"id": "c", "messages": [{"id": "u2", "role": "user", "parts": []}]}
            async with client.stream("POST", "/api/chat", json=asked):
                pass
        else:
            await say(opened, "resume", "b")
            await until(opened, "text-delta")
        await say(opened, "abort", "other")
        if then == "closes":
            await opened.close()
        pauses.over.set()
        async for _ in manager.follow("d"):
            pass  # what "a" was aborted for is due before this
        job = await manager.job("c")
        assert (job.generation, job.abort) == (2 if then == "elsewhere" else 1, None)


@pytest.mark.parametrize(
    ("frame", "mention"),
    [
        ({"type": "sing", "requestId": "r"}, "sing"),
        ({"type": "resume", "requestId": "r"}, "id"),
        ({"type": "resume", "requestId": "r", "id": "c", "lastSequence": "x"}, "lastSequence"),
        ({"type": "resume", "requestId": "r", "id": "c", "lastSequence": -2}, "lastSequence"),
        ({"type": "send", "requestId": "r", "id": "c", "messages": []}, "messages"),
        ({"type": "send", "requestId": "r", "id": "c", "messages": [{"role": "king"}]}, "role"),
        ({"type": "send", "requestId": "r", "id": "", "messages": []}, "id"),
    ],
)
async def test_a_bad_frame_is_refused_and_the_socket_stays(serving: Serving, frame: Json, mention: str) -> None:
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client, socket(client) as opened:
        await opened.send(json.dumps(frame))
        refused = await answer(opened)
        assert refused[0]["type"] == "error"
        assert mention in refused[0]["errorText"]
        await say(opened, "send")
        assert (await answer(opened))[-1]["type"] == "end"


@pytest.mark.parametrize(("data", "code"), [("{", 1008), ("[]", 1008), (b"\xff", 1008), ("x" * 3000, 1009)])
async def test_what_is_no_frame_closes_the_socket(serving: Serving, data: str | bytes, code: int) -> None:
    app = create_app(GenerationManager(options=OPTIONS), run=hello, max_body=2600)
    async with serving(app) as client, socket(client) as opened:
        await opened.send(data)
        assert await closed(opened) == code


async def test_who_may_open_it(serving: Serving) -> None:
    """A caller without a name may not, and neither may a page of another origin; another's chat does not exist."""
    app = create_app(GenerationManager(options=OPTIONS), run=hello, authenticate=authenticate)
    async with serving(app) as client:
        origin = {"origin": "https://elsewhere.example"}
        host = str(client.base_url.netloc, "ascii")
        refused: list[tuple[str, Json, int]] = [
            ("", {}, 401),
            ("?user=ann", {"additional_headers": {**origin, "cookie": "a=b"}}, 403),
            ("?user=ann", {"additional_headers": {"origin": "http://[", "authorization": "Basic x"}}, 403),
        ]
        for query, options, status in refused:
            with pytest.raises(InvalidStatus) as raised:
                await open_and_close(client, query, **options)
            assert raised.value.response.status_code == status
        for more in (
            {},
            {"origin": f"http://{host}", "cookie": "a=b"},
            {**origin, "x-forwarded-host": "elsewhere.example"},
        ):
            async with socket(client, "?user=ann", additional_headers=more, subprotocols=["chat"]) as opened:
                assert opened.subprotocol == "chat"
                await say(opened, "send")
                assert (await answer(opened))[-1]["type"] == "end"
        async with socket(client, "?user=bob") as opened:
            await say(opened, "resume")
            assert await answer(opened) == [{"type": "no-active"}]
            await say(opened, "send")
            assert (await answer(opened))[0]["type"] == "error"
    async with serving(create_app(GenerationManager(options=OPTIONS), run=hello)) as client:
        with pytest.raises(InvalidStatus):
            await open_and_close(client, additional_headers=origin)


async def test_who_does_not_read_is_cut_off(serving: Serving) -> None:
    """Nothing piles up for a client that does not read, and the run goes on to its end."""
    manager = GenerationManager(options=OPTIONS)

    async def shout(gen: Generation, request: StartRequest) -> None:
        for number in range(200):
            await gen.text("x" * 100_000, part_id=str(number))

    app = create_app(manager, run=shout, stream_options=StreamOptions(send_timeout=0.2))
    async with serving(app) as client, socket(client, max_queue=1, max_size=None) as opened:
        await say(opened, "send")
        await opened.recv()  # and no more of them
        async for _ in manager.follow("c"):
            pass
        while manager.replica.viewers:
            await asyncio.sleep(0.02)
        assert (await manager.job("c")).status == "complete"
        assert await closed(opened) == 1006


async def test_a_server_that_goes_closes_it_as_a_disconnect(serving: Serving) -> None:
    """1012, which clients take for a lost connection: they resume elsewhere. Idle ones are closed too, and hold up
    nothing."""
    manager = GenerationManager(options=OPTIONS)
    async with AsyncExitStack() as clients:
        async with serving(create_app(manager, run=endless)) as client:
            following, asking, idle = [await clients.enter_async_context(socket(client)) for _ in range(3)]
            await say(following, "send")
            await until(following, "text-delta")
            for viewer in list(manager.replica.viewers):
                viewer.release()
            assert await closed(following) == 1012
            manager.replica.closing = True
            await say(asking, "resume")
            assert await closed(asking) == 1012
        assert await closed(idle) == 1012
