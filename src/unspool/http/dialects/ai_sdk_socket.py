"""The AI SDK's chat over a WebSocket: `WebSocketChatTransport`. Many requests share one connection.

Each chunk carries its sequence, which is the number of the part in its generation, from 0. A resume after a sequence
names the run, whose id the first chunk tells; the SDK's own transport asks for all chunks. Closing the socket is a
disconnect and stops nothing; an `abort` is a Stop. Source: `websocket-chat-transport.ts` of `ai` 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, Final

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from unspool import projecting
from unspool.errors import InvalidPosition, ShuttingDown, StoreUnavailable, UnspoolError, ViewerReleased
from unspool.http.auth import Identity
from unspool.http.dialects.ui_message_stream import DONE, UIMessageStream, run_id
from unspool.http.dialects.values import Json
from unspool.http.door import Door
from unspool.http.problem import problem
from unspool.http.pump import CUT
from unspool.jobs import Job

_log = logging.getLogger("unspool.http")

_MANY: Final = 32
"""Requests that one socket may have under way."""
_PAUSE: Final = 0.25
"""Seconds before an abort stops anything: a client that asks for the same stream anew aborts its old request first."""
_TURN: Final = 50
"""Chunks after which others get their turn."""
_PASSING: Final = (ViewerReleased, ShuttingDown, StoreUnavailable)
"""What another replica, or the same one a little later, may not have."""

_BAD_FRAME: Final = 1008
_TOO_LARGE: Final = 1009
_BROKEN: Final = 1011
_RESTART: Final = 1012


class Send(msgspec.Struct, tag="send", rename="camel"):
    """A message of the user. `body`: what `DefaultChatTransport` would have beside the rest. The frame's headers are
    the client's words, and prove nothing."""

    request_id: str
    id: str
    messages: Any
    trigger: Any = "submit-message"
    message_id: Any = None
    headers: dict[str, str] = {}
    body: Json = {}


class Resume(msgspec.Struct, tag="resume", rename="camel"):
    """Follow the chat's last generation; `last_sequence`: the last chunk that is known, of the run `run_id`."""

    request_id: str
    id: str
    last_sequence: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    run_id: str | None = None


class Abort(msgspec.Struct, tag="abort", rename="camel"):
    """Stop what a request follows."""

    request_id: str


class _Named(msgspec.Struct, rename="camel"):
    request_id: str


_decode = msgspec.json.Decoder(Send | Resume | Abort).decode
_encode = msgspec.json.Encoder().encode


class ChatSocket:
    """The endpoint. `send` and `latest`: what starts a generation, and finds the one to resume."""

    def __init__(
        self,
        door: Door,
        send: Callable[[Identity, object, str | None], Awaitable[Job]],
        latest: Callable[[Identity, str], Awaitable[Job | None]],
    ) -> None:
        self.door = door
        self.send = send
        self.latest = latest

    async def serve(self, websocket: WebSocket) -> None:
        """Answer one socket until it is closed."""
        try:
            identity = await self.door.identify(websocket)
        except UnspoolError as error:
            if "websocket.http.response" in websocket.scope.get("extensions", {}):
                await websocket.send_denial_response(problem(error))
            else:
                await websocket.close(_BAD_FRAME)
            return
        offered: list[str] = websocket.scope.get("subprotocols", [])
        await websocket.accept(offered[0] if offered else None)  # a browser gives up where none is chosen
        await _Session(self, websocket, identity).run()


class _Request:
    """A send or a resume under way. `job`: what it follows, once that is known."""

    def __init__(self, request_id: str, chat_id: str) -> None:
        self.id = request_id
        self.chat_id = chat_id
        self.job: Job | None = None
        self.left = False  # the client has gone on, or is gone
        self.task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """Stop following. What is just being started is started."""
        self.left = True
        if self.job is not None and self.task is not None:
            self.task.cancel()


class _Session:
    """One open socket."""

    def __init__(self, served: ChatSocket, websocket: WebSocket, identity: Identity) -> None:
        self._served = served
        self._door = served.door
        self._websocket = websocket
        self._identity = identity
        self._requests: dict[str, _Request] = {}
        self._wanted: set[str] = set()  # the chats that were followed when the socket was closed, which stops nothing
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._over: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        receiver = asyncio.create_task(self._receive())
        try:
            await asyncio.wait({receiver, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if self._over.done():
                await self._close(self._over.result())
            else:
                receiver.result()
        finally:
            receiver.cancel()
            self._wanted = {request.chat_id for request in self._requests.values() if not request.left}
            for request in self._requests.values():
                request.leave()
            await asyncio.gather(receiver, *self._tasks, return_exceptions=True)

    async def _close(self, code: int | None) -> None:
        """Close with this code; None: cut it, because nobody reads."""
        cut: Callable[[], None] | None = self._websocket.scope.get("extensions", {}).get(CUT)
        if code is None and cut is not None:
            cut()
            return
        try:
            async with asyncio.timeout(1.0):
                await self._websocket.close(code or _RESTART)
        except (TimeoutError, WebSocketDisconnect, RuntimeError):  # it is closed, or nobody reads
            if cut is not None:
                cut()

    def _finish(self, code: int | None) -> None:
        if not self._over.done():
            self._over.set_result(code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("a socket is closed: %s", error, exc_info=error)
            self._finish(_BROKEN)

    # what the client says

    async def _receive(self) -> None:
        while (message := await self._websocket.receive())["type"] != "websocket.disconnect":
            data = message.get("text") or message.get("bytes") or ""
            data = data.encode() if isinstance(data, str) else bytes(data)
            if len(data) > self._door.max_body:
                self._finish(_TOO_LARGE)
                return
            try:
                frame = _decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if not await self._refuse(data, error):
                    return
                continue
            if isinstance(frame, Abort):
                self._abort(frame.request_id)
            else:
                await self._begin(frame)

    async def _refuse(self, data: bytes, error: Exception) -> bool:
        """Say what is wrong with a frame; False where it cannot be said to any request."""
        try:
            request_id = msgspec.json.decode(data, type=_Named).request_id
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._finish(_BAD_FRAME)
            return False
        return await self._say(request_id, type="error", errorText=f"The frame is not valid: {error}")

    async def _begin(self, frame: Send | Resume) -> None:
        if frame.request_id in self._requests or len(self._requests) >= _MANY:
            text = f"A request id is used once, and {_MANY} requests may be under way."
            await self._say(frame.request_id, type="error", errorText=text)
            return
        request = self._requests[frame.request_id] = _Request(frame.request_id, frame.id)
        request.task = self._spawn(self._answer(request, frame))

    def _abort(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is not None and not request.left:
            request.leave()
            self._spawn(self._stop(request))

    async def _stop(self, request: _Request) -> None:
        await asyncio.sleep(_PAUSE)
        if request.task is not None:
            await asyncio.wait({request.task})
        wanted = self._wanted.union(one.chat_id for one in self._requests.values() if not one.left)
        if request.job is None or request.chat_id in wanted:
            return
        try:
            await self._door.stop(self._identity, request.chat_id, request.job.generation)
        except UnspoolError as error:
            _log.warning("%s could not be stopped: %s", request.job.key, error)

    # what it is told

    async def _answer(self, request: _Request, frame: Send | Resume) -> None:
        try:
            if isinstance(frame, Send):
                given = {
                    **frame.body, "id": frame.id, "messages": frame.messages, "trigger": frame.trigger,
                    "messageId": frame.message_id,
                }  # fmt: skip
                named = {name.lower(): value for name, value in frame.headers.items()}
                job = await self._served.send(self._identity, given, named.get("idempotency-key"))
                position = 0
            else:
                job = await self._served.latest(self._identity, frame.id)
                position = 0 if frame.last_sequence is None else frame.last_sequence + 1
                if job is not None and position and frame.run_id != run_id(job):
                    text = f"the chat is at {run_id(job)}: name in runId the run that lastSequence is of"
                    raise InvalidPosition(text)
            request.job = job
            if request.left:
                return
            if job is None:
                await self._say(request.id, type="no-active")
            else:
                await self._follow(request.id, job, position)
        except UnspoolError as error:
            # A resume is tried again where the socket breaks; an error would be the end of it.
            passing = isinstance(error, _PASSING) or self._door.manager.closing
            if passing and (isinstance(frame, Resume) or request.job is not None):
                self._finish(_RESTART)
            else:
                await self._say(request.id, type="error", errorText=error.message)
        finally:
            del self._requests[request.id]

    async def _follow(self, request_id: str, job: Job, position: int) -> None:
        viewer, encode, first = await projecting.attach(self._door.manager.replica, job, UIMessageStream, position)
        async with viewer:
            if not await self._say(request_id, type="start"):
                return
            head = b'{"type":"chunk","requestId":%b,"sequence":' % _encode(request_id)
            frames = first or await viewer.frames(encode)
            while frames is not None:
                for block in frames.removesuffix(DONE).split(b"\n\n")[:-1]:
                    if not await self._write(b'%b%d,"chunk":%b}' % (head, position, block.removeprefix(b"data: "))):
                        return
                    position += 1
                    if position % _TURN == 0:
                        await asyncio.sleep(0)
                frames = await viewer.frames(encode)
            await self._say(request_id, type="end")

    async def _say(self, request_id: str, **frame: object) -> bool:
        return await self._write(_encode({**frame, "requestId": request_id}))

    async def _write(self, data: bytes) -> bool:
        """Send one frame; False where the socket is gone, or does not drain and is given up."""
        try:
            async with asyncio.timeout(self._door.stream_options.send_timeout), self._sending:
                await self._websocket.send_text(data.decode())
        except TimeoutError:
            self._finish(None)
            return False
        except (WebSocketDisconnect, RuntimeError):  # the other side has closed it, or we have
            return False
        return True
