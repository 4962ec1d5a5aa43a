"""A server with LangGraph's routes, an application that can be held up, and what tests ask of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from tests.conftest import Serving
from unspool import GenerationManager, Options
from unspool.http import StartRequest, create_app
from unspool.ledger import Ledger
from unspool.producer import Generation
from unspool.sse import Decoder, Message

OPTIONS = Options(sweep=0.02, poll=0.02, abort_grace=10.0)
MODES = ["messages-tuple", "values", "updates", "custom"]


class App:
    """An application whose run says two words, and waits between them while `go` is clear."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.requests: list[StartRequest] = []

    async def run(self, gen: Generation, request: StartRequest) -> None:
        self.requests.append(request)
        asked = str(request.messages[-1]["content"])
        await gen.text("echo ")
        await gen.snapshot()
        await self.go.wait()
        if asked == "fail":
            raise ValueError("a secret")
        await gen.text(asked)


class Server:
    def __init__(self, app: App, client: httpx2.AsyncClient, manager: GenerationManager) -> None:
        self.app = app
        self.client = client
        self.manager = manager

    async def thread(self, **body: Any) -> str:
        answer = await self.client.post("/threads", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["thread_id"]

    async def start(self, thread: str, text: str = "one", status: int = 200, **body: Any) -> dict[str, Any]:
        answer = await self.client.post(f"/threads/{thread}/runs", json={**asking(text), **body})
        assert answer.status_code == status, answer.text
        return answer.json()

    async def ask(self, thread: str, text: str, **body: Any) -> list[str]:
        """The texts that the thread has after a run."""
        answer = await self.client.post(f"/threads/{thread}/runs/wait", json={**asking(text), **body})
        assert answer.status_code == 200, answer.text
        return texts(answer.json())

    async def status(self, run: dict[str, Any]) -> str:
        path = f"/threads/{run['thread_id']}/runs/{run['run_id']}"
        await self.client.get(f"{path}/join")
        return (await self.client.get(path)).json()["status"]

    async def history(self, thread: str) -> list[dict[str, Any]]:
        return (await self.client.post(f"/threads/{thread}/history", json={"limit": 50})).json()


def asking(text: str) -> dict[str, Any]:
    return {"assistant_id": "agent", "input": {"messages": [{"role": "user", "content": text}]}}


def texts(values: dict[str, Any]) -> list[str]:
    return [message["content"] for message in values["messages"]]


@asynccontextmanager
async def served(serving: Serving, ledger: Ledger | None = None, **kwargs: Any) -> AsyncGenerator[Server]:
    app, manager = App(), GenerationManager(options=kwargs.pop("options", OPTIONS), ledger=ledger)
    async with serving(create_app(manager, run=app.run, dialects=["langgraph"], **kwargs)) as client:
        yield Server(app, client, manager)


async def events(client: httpx2.AsyncClient, method: str, url: str, **kwargs: Any) -> list[Message]:
    decoder = Decoder()
    messages: list[Message] = []
    async with client.stream(method, url, **kwargs) as response:
        assert response.status_code == 200, await response.aread()
        async for chunk in response.aiter_raw():
            messages += decoder.feed(chunk)
    return messages


class Closing:
    """A request whose connection is closed in the middle of the answer."""

    def __init__(self, client: httpx2.AsyncClient, method: str, path: str, **kwargs: Any) -> None:
        self._stream = client.stream(method, path, **kwargs)
        self.headers: Any = None

    async def begun(self) -> Any:
        self.headers = (await self._stream.__aenter__()).headers
        return self.headers

    async def close(self) -> None:
        await self._stream.__aexit__(None, None, None)
