"""The client for programs without asyncio: no event loop and no thread of its own, the same requests and positions."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
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


class SyncClient:
    """The same as `Client`, call for call; `follow` is an ordinary iterator. A context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int = calls.ATTEMPTS,
        silence: float = calls.SILENCE,
        http: httpx2.Client | None = None,
    ) -> None:
        self.url = calls.check_url(url)
        self._headers = {**calls.check_token(token), **(headers or {})}
        self._attempts = attempts
        self._timeout = httpx2.Timeout(silence, connect=5.0)
        self._own = http is None
        self._http = http or httpx2.Client(trust_env=not calls.is_local(self.url))

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._own:
            self._http.close()

    def start(
        self,
        stream_id: str,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        request_id: str | None = None,
        expect_generation: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Started:
        """As `Client.start`."""
        call = calls.start(
            stream_id, messages,
            model=model, request_id=request_id, expect_generation=expect_generation, metadata=metadata,
        )  # fmt: skip
        response = self._ask(call)
        return calls.started(self.url, response.status_code, response.content)

    def follow(
        self,
        stream_id: str,
        *,
        generation: int | None = None,
        after: int = 0,
        snapshot: bool = False,
        patience: float | None = None,
        on_state: Callable[[State], object] | None = None,
    ) -> Generator[Received]:
        """As `Client.follow`."""
        following = Following(
            stream_id, generation=generation, after=after, snapshot=snapshot, patience=patience, on_state=on_state
        )
        while not following.ended:
            error = None
            try:
                with self._open(following.request()) as response:
                    following.answered(str(response.url), response.status_code, response.headers)
                    for data in response.iter_raw():
                        yield from following.feed(data)
                        if following.ended:
                            return
            except UnspoolError as raised:
                error = raised
            if not following.ended:
                time.sleep(following.lost(error))

    def stop(self, stream_id: str, *, generation: int | None = None, reason: str | None = None) -> Outcome:
        """As `Client.stop`."""
        if generation is None:  # a second attempt must not stop what was started in between
            generation = self.status(stream_id).generation
        response = self._ask(calls.stop(stream_id, generation, reason))
        return calls.answer(self.url, response.content, Outcome)

    def status(self, stream_id: str, *, generation: int | None = None) -> StreamState:
        """As `Client.status`."""
        response = self._ask(calls.status(stream_id, generation))
        return calls.answer(self.url, response.content, StreamState)

    def list(self, *, status: Status | None = None, limit: int | None = None) -> list[Summary]:
        """As `Client.list`."""
        response = self._ask(calls.listing(status, limit))
        return calls.listed(self.url, response.content)

    def _ask(self, call: calls.Call) -> httpx2.Response:
        """A request that is repeated until it is answered."""
        retry = Retry(self._attempts)
        while True:
            try:
                with self._open(call) as response:
                    response.read()
                    return response
            except UnspoolError as error:
                seconds = retry.after(error)
            time.sleep(seconds)

    @contextmanager
    def _open(self, call: calls.Call) -> Generator[httpx2.Response]:
        try:
            with self._http.stream(
                call.method, self.url + call.path, params=call.params, json=call.body,
                headers={**self._headers, **call.headers}, timeout=self._timeout,
            ) as response:  # fmt: skip
                if not response.is_success:
                    body = response.read()
                    raise error_of(
                        str(response.url), response.status_code, response.reason_phrase, response.headers, body
                    )
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise lost_connection(self.url, error) from error
