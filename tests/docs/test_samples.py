"""Every sample of the documentation is executed: a block that nothing here can run fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests.docs.blocks import PAGES, Block, blocks_of
from tests.docs.servers import serving
from tests.docs.session import Session, hurry
from tests.servers.redis import binary
from unspool.sse import Decoder

NOT_RUN: Final[dict[tuple[str, str], str]] = {
    (
        "README.md",
        "provider → producer → log → viewer → dialect → socket            control: stop → job record → owner",
    ): ("a picture in letters"),
    ("docs/dialects/ai-sdk.md", "import { useChat } from '@ai-sdk/react';"): "tests/interop/dialects runs such a page",
    ("docs/dialects/ai-sdk.md", "import { WorkflowChatTransport } from '@ai-sdk/workflow/client';"): (
        "tests/interop/dialects uses it in this way"
    ),
    ("docs/dialects/ai-sdk.md", "import { WebSocketChatTransport } from 'ai';"): (
        "tests/interop/dialects uses it in this way"
    ),
    ("docs/simulation.md", "Broken: fence"): "what a failure looks like; tests/simulation breaks laws and reads it",
}
"""The only blocks that are not run: page and first line, and why."""

ALL: Final = [block for page in PAGES for block in blocks_of(page)]


def test_exceptions_are_still_there() -> None:
    """What is excepted exists; an exception outlives its block nowhere."""
    assert set(NOT_RUN) <= {block.key for block in ALL}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
async def test_samples_of(page: str, tmp_path: Path) -> None:
    """The samples of a page, in their order, do what it says they do."""
    if binary() is None and any(Session.REDIS in block.text or "redis-cli" in block.text for block in blocks_of(page)):
        pytest.skip(f"{page}: NOT RUN, there is no redis-server: install the extra `dev` on Linux")
    async with Session(tmp_path) as session:
        for block in blocks_of(page):
            if block.key in NOT_RUN:
                continue
            try:
                await session.take(block)
            except AssertionError as error:
                raise AssertionError(f"{block}: {error}") from error
            except Exception as error:
                error.add_note(f"in the sample of {block}")
                raise
        session.finish()
    if session.skipped:
        pytest.skip(f"{page}: all but some samples were run: {', '.join(session.skipped)}")


async def test_an_unknown_language_fails(tmp_path: Path) -> None:
    """Nothing is added unexecuted: not in another language, and not without one."""
    async with Session(tmp_path) as session:
        for language in ("ruby", ""):
            with pytest.raises(AssertionError, match="nothing here can run"):
                await session.take(Block("docs/new.md", 1, language, None, "puts 1\n"))
        with pytest.raises(AssertionError, match="nothing here can run"):
            await session.take(Block("docs/new.md", 1, "console", None, "$ rm -rf build\n"))
        for command in ("make nonsense", "pip install 'unspool[nonsense]'", "make test NONSENSE=1"):
            with pytest.raises(AssertionError, match=r"nonsense|NONSENSE"):
                await session.take(Block("docs/new.md", 1, "sh", None, f"{command}\n"))


def _python(page: str, number: int) -> str:
    return [block.text for block in blocks_of(page) if block.language == "python"][number]


async def test_the_readme_s_application_serves(tmp_path: Path) -> None:
    """Its router starts and follows, its own route follows too, and a stranger is refused."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(_python("README.md", 1), namespace)  # the point of it
    hurry(namespace)
    async with (
        serving(namespace["app"], namespace["manager"]) as url,
        httpx2.AsyncClient(base_url=url, timeout=60, trust_env=False) as client,
    ):
        mine = {"x-user": "ann"}
        body = {"messages": [{"role": "user", "content": "hi"}]}
        started = (await client.post("/chat/v1/streams/c/generations", json=body, headers=mine)).json()
        for path in (started["events_url"], "/my/answers/c"):
            messages = Decoder().feed((await client.get(path, headers=mine)).content)
            assert messages[-1].event == "completed", messages[-1]
        assert (await client.get("/my/answers/c", headers={"x-user": "bob"})).status_code == 404
        assert (await client.get("/chat/v1/streams/c")).status_code == 401


async def test_the_readme_s_library_example_prints_what_it_says(tmp_path: Path) -> None:
    """It prints each record, the terminal one last, and then what Stop answers."""
    async with Session(tmp_path) as session:
        await session.take(Block("README.md", 1, "python", None, _python("README.md", 0)))
        assert session.output is not None
        lines = session.output.splitlines()
    assert "text.delta" in lines[0]
    assert lines[-2].split()[1] == "completed"
    assert lines[-1].startswith("AlreadySettled(")
