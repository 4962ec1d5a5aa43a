"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import httpx2

from unspool.client import calls
from unspool.client.answers import Outcome, Received, Started, StreamState, Summary
from unspool.client.errors import error_of
from unspool.client.follow import Following, State
from unspool.client.retry import Retry
from unspool.client.transport import lost_connection
from unspool.errors import UnspoolError
from unspool.jobs import Status


class Client:
    """A client of the server at `url`, path prefix included. An async context manager.

    `token`: a bearer token; `headers`: sent with every request. `attempts`: how many of one call may fail in a row;
    `silence`: seconds without a byte after which a connection is given up. `http`: a client of your own, with its
    proxies and certificates, which is not closed here.

    Every verb raises the errors of `unspool.errors` that the server answers with, Unreachable when there was no answer,
    and UnexpectedAnswer for one that is not unspool's. Raises ConfigurationError for a `url` that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = calls.ATTEMPTS,
        silence: float = calls.SILENCE,
        http: httpx2.AsyncClient | None = None,
    ) -> None:
        self.url = calls.check_url(url)
        self._headers = {**calls.check_token(token), **(headers or {})}
        self._attempts = attempts
        self._timeout = httpx2.Timeout(silence, connect=5.0)
        self._own = http is None
        self._http = http or httpx2.AsyncClient(trust_env=not calls.is_local(self.url))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._own:
            await self._http.aclose()

    async def start(
        self,
        stream_id: str,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        request_id: str | None = None,
        expect_generation: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Started:
        """Start a generation, and return at once; it runs whether anybody follows or not.

        `messages`: the conversation in the shape of OpenAI's chat API, or the text of its user alone. It starts once,
        however often it has to be sent: `request_id` is minted where none is given. `expect_generation`: refuse
        (GenerationConflict) unless this is the stream's last generation; 0: there is none yet. `metadata`: what the
        application keeps with the turn.
        """
        call = calls.start(
            stream_id, messages,
            model=model, request_id=request_id, expect_generation=expect_generation, metadata=metadata,
        )  # fmt: skip
        response = await self._ask(call)
        return calls.started(self.url, response.status_code, response.content)

    async def follow(
        self,
        stream_id: str,
        *,
        generation: int | None = None,
        after: int = 0,
        snapshot: bool = False,
        patience: float | None = None,
        on_state: Callable[[State], object] | None = None,
    ) -> AsyncGenerator[Received, None]:
        """The records of a generation, each once and in order, whatever happens to the connection.

        Ends after the terminal one; without one only where `after` was behind it. `generation`: an older one instead of
        the stream's last; `after`: the offset to begin after; `snapshot`: begin with one `sync` record, the content so
        far. `patience`: seconds without the server after which Unreachable is raised; None: never. `on_state` is told
        what it is doing.
        """
        following = Following(
            stream_id, generation=generation, after=after, snapshot=snapshot, patience=patience, on_state=on_state
        )
        while not following.ended:
            error = None
            try:
                async with self._open(following.request()) as response:
                    following.answered(str(response.url), response.status_code, response.headers)
                    async for data in response.aiter_raw():
                        for record in following.feed(data):
                            yield record
                        if following.ended:
                            return
            except UnspoolError as raised:
                error = raised
            if not following.ended:
                await asyncio.sleep(following.lost(error))

    async def stop(self, stream_id: str, *, generation: int | None = None, reason: str | None = None) -> Outcome:
        """Stop a generation, the stream's last by default; the answer comes when it has stopped, with its content."""
        if generation is None:  # a second attempt must not stop what was started in between
            generation = (await self.status(stream_id)).generation
        response = await self._ask(calls.stop(stream_id, generation, reason))
        return calls.answer(self.url, response.content, Outcome)

    async def status(self, stream_id: str, *, generation: int | None = None) -> StreamState:
        """Status and content so far: of the stream's last generation, or of another."""
        response = await self._ask(calls.status(stream_id, generation))
        return calls.answer(self.url, response.content, StreamState)

    async def list(self, *, status: Status | None = None, limit: int | None = None) -> list[Summary]:
        """The caller's own generations, newest first, those within their retention time included."""
        response = await self._ask(calls.listing(status, limit))
        return calls.listed(self.url, response.content)

    async def _ask(self, call: calls.Call) -> httpx2.Response:
        """A request that is repeated until it is answered."""
        retry = Retry(self._attempts)
        while True:
            try:
                async with self._open(call) as response:
                    await response.aread()
                    return response
            except UnspoolError as error:
                seconds = retry.after(error)
            await asyncio.sleep(seconds)

    @asynccontextmanager
    async def _open(self, call: calls.Call) -> AsyncGenerator[httpx2.Response, None]:
        try:
            async with self._http.stream(
                call.method, self.url + call.path, params=call.params, json=call.body,
                headers={**self._headers, **call.headers}, timeout=self._timeout,
            ) as response:  # fmt: skip
                if not response.is_success:
                    body = await response.aread()
                    raise error_of(
                        str(response.url), response.status_code, response.reason_phrase, response.headers, body
                    )
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise lost_connection(self.url, error) from error
