"""`examples/` runs: two replicas behind nginx as the Compose file has them, but without Docker; the application."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
import yaml

from tests.docs.blocks import ROOT
from tests.docs.commands import EXTRAS
from tests.docs.nginx import missing, nginx
from tests.docs.servers import PATIENCE, Process, beside
from tests.servers.ports import free_port
from tests.servers.redis import binary, server
from unspool import Fold
from unspool.cli.settings import Settings
from unspool.client import Client, Received, State
from unspool.http import StreamOptions
from unspool.sse import Decoder, Message

FOLDER: Final = ROOT / "examples/replicas"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: Final[dict[str, Any]] = COMPOSE["services"]
NGINX: Final = (FOLDER / "nginx.conf").read_text()
TOKEN: Final = "a-long-random-string"
OURS: Final = {"UNSPOOL_TOKEN": TOKEN, "UNSPOOL_DELAY": "0.02", "UNSPOOL_DRAIN": "60"}
"""What the test sets where the Compose file lets you: answers of some six seconds, on a busy machine of more, and time
for them when a replica is told to end."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
needs_redis = pytest.mark.skipif(binary() is None, reason="NO REDIS HERE: install the extra `dev` on Linux")
needs_nginx = pytest.mark.skipif(missing() is not None, reason=f"NOT TRIED BEHIND NGINX: {missing()}")


def environment(service: str) -> dict[str, str]:
    """The variables of a service, with those of its own that the file names filled in as Compose does."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        assert name in OURS or default is not None, f"{name} must be set"
        return OURS.get(name, default)

    pattern = r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)\}"
    return {name: re.sub(pattern, value, str(text)) for name, text in SERVICES[service]["environment"].items()}


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text.removesuffix("s"))


# The files


def test_the_compose_file_holds_together() -> None:
    """What it names is there, and its times follow on one another; of Compose itself only what this knows is used."""
    assert set(COMPOSE) == {"x-replica", "services", "volumes"}
    known = {
        "build", "command", "depends_on", "environment", "healthcheck", "image", "ports", "restart",
        "stop_grace_period", "volumes",
    }  # fmt: skip
    for name, service in SERVICES.items():
        assert set(service) <= known, name
        assert ("image" in service) is ("build" not in service), name
        assert not str(service.get("image", "x:1")).endswith("latest"), name
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert SERVICES[needed]["healthcheck"]["test"][0] == "CMD"
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in COMPOSE["volumes"] or (FOLDER / source).is_file(), mount
    for name in ("one", "two"):
        settings = {key.removeprefix("UNSPOOL_").lower() for key in environment(name) if key.startswith("UNSPOOL_")}
        assert settings <= set(Settings.model_fields)
        build = SERVICES[name]["build"]
        assert (FOLDER / build["context"] / build["dockerfile"]).resolve() == FOLDER / "Dockerfile"
        drain = re.search(r"-(\d+)", SERVICES[name]["environment"]["UNSPOOL_DRAIN"])
        assert drain is not None
        assert seconds(SERVICES[name]["stop_grace_period"]) >= float(drain[1]) + 10
    for setting in ("--appendonly yes", "--maxmemory-policy noeviction"):
        assert setting in " ".join(SERVICES["store"]["command"])


def test_the_image_is_built_from_what_is_there() -> None:
    """Its files are in the repository, and its extras are ours."""
    text = (FOLDER / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    extras = re.search(r"'\.\[(.+)\]'", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= EXTRAS
    assert 'ENTRYPOINT ["unspool", "serve"]' in text, "as the first process, so that it gets the signal"


def test_nginx_waits_for_longer_than_a_heart_beat() -> None:
    """And lets go of idle connections before the server does; every server that it names is a service."""
    settings = dict(re.findall(r"^ *(\w+) ([^;]+);", NGINX, re.MULTILINE))
    assert seconds(settings["proxy_read_timeout"]) > 2 * StreamOptions().heartbeat
    assert seconds(settings["keepalive_timeout"]) < 5, "uvicorn's"
    assert set(re.findall(r"server (\w+):8000", NGINX)) == {"one", "two"} <= set(SERVICES)
    port = re.search(r"listen (\d+);", NGINX)
    assert port is not None
    assert SERVICES["nginx"]["ports"][0].endswith(f":{port[1]}")


# The installation


@dataclass
class Installation:
    """`url` is nginx's; the replicas by name."""

    url: str
    replicas: dict[str, Process]

    def client(self, replica: str | None = None) -> Client:
        return Client(self.url if replica is None else self.replicas[replica].url, token=TOKEN)


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncGenerator[Installation]:
    """The services of the Compose file as processes of this machine: other ports and addresses, the same settings."""
    _, *store_settings = SERVICES["store"]["command"]
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("UNSPOOL_", "OPENAI_"))}
    async with AsyncExitStack() as stack:
        store = stack.enter_context(server(tmp_path / "store", *store_settings))
        replicas: dict[str, Process] = {}
        text, port = NGINX, free_port()

        async def start(name: str) -> None:
            env = {**clean, **environment(name), "UNSPOOL_HOST": "127.0.0.1", "UNSPOOL_PORT": "0"}
            env["UNSPOOL_STORE"] = env["UNSPOOL_STORE"].replace("redis://store:6379", store.url)
            replicas[name] = await Process.start(beside("unspool"), "serve", folder=tmp_path, env=env)
            stack.push_async_callback(replicas[name].kill)

        async with asyncio.TaskGroup() as group:
            for name in ("one", "two"):
                group.create_task(start(name))
        for name, replica in replicas.items():
            text = text.replace(f"{name}:8000", replica.url.removeprefix("http://"))
        await stack.enter_async_context(nginx(text.replace("listen 8080", f"listen 127.0.0.1:{port}"), tmp_path))
        yield Installation(f"http://127.0.0.1:{port}", replicas)


class Reader:
    """Follows a stream over nginx to its end; knows how often it had to come back."""

    def __init__(self, client: Client, stream: str) -> None:
        self.records: list[Received] = []
        self.returns = 0
        self.fold = Fold()
        self._client = client
        self._stream = stream
        self._moved = asyncio.Condition()
        self._task = asyncio.create_task(self._read())

    def _on_state(self, state: State) -> None:
        self.returns += state.name == "waiting"

    async def _read(self) -> None:
        async with self._client as client:
            async for record in client.follow(self._stream, on_state=self._on_state):
                self.fold.apply(record)
                async with self._moved:
                    self.records.append(record)
                    self._moved.notify_all()

    async def reach(self, offset: int) -> None:
        async with asyncio.timeout(PATIENCE), self._moved:
            await self._moved.wait_for(lambda: bool(self.records) and self.records[-1].offset >= offset)

    async def end(self) -> str:
        """The type of the terminal record; every record came once and in order."""
        async with asyncio.timeout(PATIENCE):
            await self._task
        offsets = [record.offset for record in self.records]
        assert offsets == list(range(1, len(offsets) + 1))
        return self.records[-1].type


@needs_redis
@needs_nginx
async def test_any_replica_answers_for_any_stream(installation: Installation) -> None:
    """Started on one, followed over nginx, taken up again on either at a position, and with a snapshot; one content."""
    async with installation.client("one") as one, installation.client("two") as two, installation.client() as nearest:
        await one.start("conv-71", "Tell me about rivers")
        readers = [Reader(installation.client(), "conv-71") for _ in range(4)]
        await readers[0].reach(20)
        for client in (one, two, nearest):  # as a page that is reloaded
            async for record in client.follow("conv-71", generation=1, after=10):
                assert record.offset == 11
                break
            async for record in client.follow("conv-71", snapshot=True):
                assert record.type == "sync"
                assert record.offset >= 20
                break
        assert {await reader.end() for reader in readers} == {"completed"}
        state = await two.status("conv-71")
        assert state.status == "complete"
        assert {reader.fold.snapshot().text for reader in readers} == {state.text}
        assert [found.stream_id for found in await two.list()] == ["conv-71"]


@needs_redis
@needs_nginx
@pytest.mark.parametrize("owner", ["one", "two"])
async def test_stop_over_nginx_reaches_whichever_replica_runs_it(installation: Installation, owner: str) -> None:
    """And is answered with what every viewer has; by the other replica, too."""
    other = "two" if owner == "one" else "one"
    for number, client in enumerate((installation.client(), installation.client(other))):
        stream = f"conv-{number}"
        async with installation.client(owner) as there, client:
            await there.start(stream, "Tell me about rivers")
            reader = Reader(installation.client(), stream)
            await reader.reach(20)
            outcome = await client.stop(stream, reason="enough")
            assert outcome.outcome == "stopped"
            assert await reader.end() == "aborted"
            assert reader.fold.snapshot().text == outcome.text


@needs_redis
@needs_nginx
async def test_a_replica_is_told_to_go_and_nobody_notices(installation: Installation) -> None:
    """Viewers of either replica's run go on over the other one, its own run comes to its end, new ones are taken."""
    async with installation.client("one") as one, installation.client("two") as two:
        await one.start("on-one", "Tell me about rivers")
        await two.start("on-two", "Tell me about lakes")
        readers = {name: [Reader(installation.client(), name) for _ in range(4)] for name in ("on-one", "on-two")}
        for reader in [*readers["on-one"], *readers["on-two"]]:
            await reader.reach(20)
        going = asyncio.create_task(installation.replicas["one"].stop())  # which wants 0 for its exit code
        async with installation.client() as client:
            await _refused(installation.replicas["one"].url)
            await client.start("new", "Tell me about seas")
            assert (await client.status("new")).status == "running"
            for name, found in readers.items():
                assert {await reader.end() for reader in found} == {"completed"}, name
                assert {reader.fold.snapshot().text for reader in found} == {(await client.status(name)).text}
            await going
            assert await Reader(installation.client(), "new").end() == "completed"
            await client.start("newer", "Tell me about lakes")
            assert (await client.stop("newer")).outcome == "stopped"
        assert sum(reader.returns for reader in readers["on-two"]) > 0, "those that nginx had sent to the other one"


async def _refused(url: str) -> None:
    """Wait until nobody listens there any more."""
    async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"{url}/healthz")
            except httpx2.TransportError:
                return


# The application in one file


@asynccontextmanager
async def application(folder: Path, **settings: str) -> AsyncGenerator[Process]:
    """`examples/fastapi_app.py` as a process."""
    env = {**os.environ, "PORT": "0", "DATABASE": str(folder / "chat.db"), "DELAY": "0.01", **settings}
    program = str(ROOT / "examples/fastapi_app.py")
    process = await Process.start(sys.executable, program, folder=folder, env=env)
    try:
        yield process
    finally:
        await process.kill()


@asynccontextmanager
async def signed_in(url: str, name: str) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        assert (await client.get("/conversations/c")).status_code == 401
        assert (await client.post("/sign-in", json={"name": name})).status_code == 200
        yield client


async def followed(
    client: httpx2.AsyncClient, each: Callable[[Message], Awaitable[None]] | None = None
) -> list[Message]:
    """What an EventSource would get in one connection."""
    decoder, found = Decoder(), list[Message]()
    async with client.stream("GET", "/conversations/c/answer") as response:
        assert response.status_code == 200
        async for data in response.aiter_raw():
            for message in decoder.feed(data):
                found.append(message)
                if each is not None:
                    await each(message)
    return found


def text_of(messages: list[Message]) -> str:
    return "".join(json.loads(message.data)["text"] for message in messages if message.event == "text.delta")


async def test_the_application_in_memory(tmp_path: Path) -> None:
    """Sign-in, a question, its answer, the history, a repeated question, Stop, and nobody else's conversation."""
    async with application(tmp_path) as process, signed_in(process.url, "ann") as ann:
        assert "<form>" in (await ann.get("/")).text
        question = {"id": "t-1", "text": "Tell me about rivers"}
        assert (await ann.post("/conversations/c/turns", json=question)).json() == {"generation": 1}
        assert (await ann.post("/conversations/c/turns", json=question)).json() == {"generation": 1}
        messages = await followed(ann)
        assert messages[-1].event == "completed"
        (turn,) = await _settled(ann, 1)
        assert turn == {"id": "t-1", "question": question["text"], "answer": text_of(messages), "status": "complete"}

        async with signed_in(process.url, "bob") as bob:
            assert (await ann.post("/conversations/c/turns", json={"id": "t-2", "text": "And lakes?"})).is_success
            assert (await bob.get("/conversations/c/answer")).status_code == 404
            assert (await bob.post("/conversations/c/stop")).status_code == 404
            stopped = (await ann.post("/conversations/c/stop")).json()
        assert stopped["stopped"] is True
        assert (await _settled(ann, 2))[1]["answer"] == stopped["text"]
        await process.stop()


async def _settled(client: httpx2.AsyncClient, turns: int) -> list[dict[str, Any]]:
    """The history, once its last turn has ended: it is saved right after its viewers were told."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await client.get("/conversations/c")).json()["turns"]
            if len(found) == turns and found[-1]["status"] != "running":
                return found


@needs_redis
async def test_the_application_over_redis(tmp_path: Path) -> None:
    """Two processes; the one that runs the answer is killed, and the other goes on with it and saves all of it."""
    with server(tmp_path / "store") as store:
        settings = {"REDIS_URL": store.url}
        async with (
            application(tmp_path, **settings) as one,
            application(tmp_path, **settings) as two,
            signed_in(one.url, "ann") as here,
            httpx2.AsyncClient(base_url=two.url, timeout=PATIENCE, trust_env=False) as there,
        ):
            there.cookies = here.cookies
            await here.post("/conversations/c/turns", json={"id": "t-1", "text": "Tell me about rivers"})
            heard = 0

            async def kill_in_the_middle(message: Message) -> None:
                nonlocal heard
                heard += 1
                if heard == 30:
                    await one.kill()

            messages = await followed(there, kill_in_the_middle)
            events = [message.event for message in messages]
            assert events.count("resumed") == 1
            assert events[-1] == "completed"
            (turn,) = await _settled(there, 1)
            assert (turn["status"], turn["answer"]) == ("complete", text_of(messages))
