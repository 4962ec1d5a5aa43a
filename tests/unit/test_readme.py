"""The README's examples, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import Serving
from unspool.sse import Decoder

README = Path(__file__).parents[2] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_library_example_runs() -> None:
    """It prints each record, the terminal one last, and then what Stop answers."""
    done = subprocess.run([sys.executable, "-c", blocks()[0]], capture_output=True, text=True, check=True, timeout=30)
    lines = done.stdout.splitlines()
    assert "text.delta" in lines[0]
    assert lines[-2].split()[1] == "completed"
    assert lines[-1].startswith("AlreadySettled(")


async def test_the_fastapi_example_serves(serving: Serving) -> None:
    """Its router starts and follows, its own route follows too, and a stranger is refused."""
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(blocks()[1], namespace)  # the point of it
    app = namespace["app"]
    app.state.manager = namespace["manager"]
    async with serving(app) as client:
        mine = {"x-user": "ann"}
        body = {"messages": [{"role": "user", "content": "hi"}]}
        started = (await client.post("/chat/v1/streams/c/generations", json=body, headers=mine)).json()
        for url in (started["events_url"], "/my/answers/c"):
            messages = Decoder().feed((await client.get(url, headers=mine)).content)
            assert messages[-1].event == "completed", messages[-1]
        assert (await client.get("/my/answers/c", headers={"x-user": "bob"})).status_code == 404
        assert (await client.get("/chat/v1/streams/c")).status_code == 401
