"""A small product: sign-in, conversations, a page, saved answers. In memory, or over Redis in many processes.

    python examples/fastapi_app.py                                                  # one process, in memory
    REDIS_URL=redis://127.0.0.1:6379 PORT=8001 python examples/fastapi_app.py       # as many as you like

Needs `pip install 'unspool[server]' fastapi`, and the extra `redis` for the second. The database is a SQLite file,
which is good for the processes of one machine; with several machines take one that they share.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse

from unspool import Generation, GenerationManager, Job, Snapshot, UnspoolError
from unspool.http import EventStream, problem
from unspool.http.server import serve
from unspool.providers import Message
from unspool.testing.model import ScriptedModel

DATABASE = os.environ.get("DATABASE", "chat.db")
manager = GenerationManager.from_url(os.environ.get("REDIS_URL", "memory://"))
model = ScriptedModel(delay=float(os.environ.get("DELAY", "0.03")))  # yours: see unspool.providers


# The database: who is signed in, whose a conversation is, what was asked and answered.


async def database(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    def work() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(DATABASE, timeout=10)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    return await asyncio.to_thread(work)


async def create_tables() -> None:
    await database("CREATE TABLE IF NOT EXISTS sessions (token TEXT PRIMARY KEY, user TEXT)")
    await database("CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, user TEXT)")
    await database(
        "CREATE TABLE IF NOT EXISTS turns (conversation TEXT, id TEXT, question TEXT, answer TEXT DEFAULT '', "
        "status TEXT DEFAULT 'running', usage TEXT DEFAULT '[]', PRIMARY KEY (conversation, id))"
    )


# The run: by name, so that another process goes on with it when this one dies.


async def answer(gen: Generation, args: dict[str, Any]) -> None:
    turns = await database(
        "SELECT question, answer FROM turns WHERE conversation = ? AND rowid <= "
        "(SELECT rowid FROM turns WHERE conversation = ? AND id = ?) ORDER BY rowid",
        gen.stream_id, gen.stream_id, args["turn"],
    )  # fmt: skip
    messages: list[Message] = []
    for question, said in turns:
        messages.append({"role": "user", "content": question})
        if said:
            messages.append({"role": "assistant", "content": said})
    if before := (await gen.snapshot()).text:  # what the process that died had said
        messages.append({"role": "assistant", "content": before})
        messages.append({"role": "user", "content": "You were interrupted. Go on exactly where you stopped."})
    await gen.relay(model.stream(messages, call_id=gen.call_id()))


async def save(job: Job, snapshot: Snapshot) -> None:
    """Called before a generation ends unfinished, and after every end; never lets less replace a complete answer."""
    turn = (job.metadata.extra or {})["turn"]
    await database(
        "UPDATE turns SET answer = ?, status = ?, usage = ? WHERE conversation = ? AND id = ? AND status != 'complete'",
        snapshot.text, job.status, json.dumps(snapshot.usage), job.stream_id, turn,
    )  # fmt: skip


manager.register("answer", answer)
manager.hooks.save_partial.append(save)
manager.hooks.settled.append(save)


# The application.


@asynccontextmanager
async def lifespan(_: FastAPI):
    await create_tables()
    async with manager:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(UnspoolError)
async def refused(_: Request, error: UnspoolError) -> Response:
    return problem(error)


async def user_of(request: Request) -> str:
    found = await database("SELECT user FROM sessions WHERE token = ?", request.cookies.get("session", ""))
    if not found:
        raise HTTPException(401, "sign in first")
    return found[0][0]


async def mine(conversation: str, request: Request) -> str:
    """The user, who owns this conversation: the first who writes into it does."""
    user = await user_of(request)
    await database("INSERT OR IGNORE INTO conversations VALUES (?, ?)", conversation, user)
    if await database("SELECT user FROM conversations WHERE id = ?", conversation) != [(user,)]:
        raise HTTPException(404, "there is no such conversation")
    return user


@app.post("/sign-in")
async def sign_in(body: dict[str, str], response: Response) -> dict[str, str]:
    token = secrets.token_urlsafe()
    await database("INSERT INTO sessions VALUES (?, ?)", token, body["name"])  # a real one asks for more than a name
    response.set_cookie("session", token, httponly=True, samesite="lax")
    return {"user": body["name"]}


@app.get("/conversations/{conversation}")
async def history(conversation: str, request: Request) -> dict[str, Any]:
    await mine(conversation, request)
    turns = await database(
        "SELECT id, question, answer, status FROM turns WHERE conversation = ? ORDER BY rowid", conversation
    )
    return {"turns": [dict(zip(("id", "question", "answer", "status"), turn, strict=True)) for turn in turns]}


@app.post("/conversations/{conversation}/turns")
async def ask(conversation: str, body: dict[str, str], request: Request) -> dict[str, Any]:
    user = await mine(conversation, request)
    turn = body["id"]  # the client's own: sent twice, it is one turn
    await database(
        "INSERT OR IGNORE INTO turns (conversation, id, question) VALUES (?, ?, ?)", conversation, turn, body["text"]
    )
    job = await manager.start(
        conversation, "answer", args={"turn": turn}, on_owner_lost="resume",
        user=user, request_id=turn, metadata={"extra": {"turn": turn}},
    )  # fmt: skip
    return {"generation": job.generation}


@app.get("/conversations/{conversation}/answer")
async def follow(conversation: str, request: Request) -> EventStream:
    return EventStream(manager, conversation, request, user=await mine(conversation, request))


@app.post("/conversations/{conversation}/stop")
async def stop(conversation: str, request: Request) -> dict[str, Any]:
    outcome = await manager.abort(conversation, user=await mine(conversation, request))
    return {"stopped": outcome.ok, "text": outcome.text}


@app.get("/")
async def page() -> HTMLResponse:
    return HTMLResponse(Path(__file__).with_suffix(".html").read_text())


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8000"))
    # Loopback only. To serve others: behind a proxy with TLS, host="0.0.0.0", authenticated=True.
    serve(app, manager=manager, port=port, drain=30, ready=lambda url: print(url, flush=True))
