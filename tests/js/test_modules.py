"""The JavaScript client and the page's modules under Node: their own tests, and the client's fold against ours."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from unspool import Fold, Record

HERE = Path(__file__).parent
CLIENT = HERE.parents[1] / "clients" / "js"
CASES = 300


def _events(random: Random) -> list[tuple[str, dict[str, Any]]]:
    """A run as no model would write it: everything mixed with everything, in any order."""
    agents = [{}, {}, {"agent": "a", "group": "g"}, {"agent": "b", "step": "s"}]
    text = ["x", " naïve", " 日本語", "🧵", "\n"]
    makers = [
        lambda: ("text.delta", {"part_id": random.choice("pq"), "text": random.choice(text)}),
        lambda: ("text.delta", {"text": random.choice(text)}),
        lambda: ("reasoning.delta", {"part_id": random.choice("pq"), "text": random.choice(text)}),
        lambda: ("tool.call", {"call_id": random.choice("cd"), "name": "t"}),
        lambda: ("tool.call", {"call_id": random.choice("cd"), "name": "u", "arguments": {"k": [1, None, "é"]}}),
        lambda: ("tool.args.delta", {"call_id": random.choice("cd"), "text": '{"'}),
        lambda: ("tool.result", {"call_id": random.choice("cd"), "output": {"n": 1}}),
        lambda: ("tool.error", {"call_id": random.choice("cd"), "message": "no"}),
        lambda: ("tool.auth", {"call_id": random.choice("cd"), "url": "https://x.org"}),
        lambda: ("step.started", {"id": random.choice("st"), "kind": "message"}),
        lambda: ("step.finished", {"id": random.choice("st"), "finish_reason": "stop"}),
        lambda: ("approval.requested", {"action_id": "1"}),
        lambda: ("approval.resolved", {"action_id": "1", "decision": "yes"}),
        lambda: ("steer.queued", {"id": "1", "text": "left"}),
        lambda: ("steer.applied", {"id": "1", "text": "left"}),
        lambda: ("agent.update", {"agent": "a", "message": "m"}),
        lambda: ("source", {"url": "https://x.org", "title": "X"}),
        lambda: ("file", {"media_type": "text/plain"}),
        lambda: ("title", {"text": "T"}),
        lambda: ("usage", {"call_id": "m", "input_tokens": 3}),
        lambda: ("custom", {"name": "n", "value": 1}),
        lambda: ("constructor", {}),
        lambda: ("failed", {"code": "c", "message": "m"}),
    ]
    chosen = [random.choice(makers)() for _ in range(random.randint(0, 40))]
    return [(kind, {**random.choice(agents), **data}) for kind, data in chosen]


def _state(fold: Fold) -> dict[str, Any]:
    snapshot = fold.snapshot()
    state = msgspec.to_builtins(snapshot)
    content = state.pop("parts")
    return {**state, "content": content, "text": snapshot.text}


def _case(random: Random) -> dict[str, Any]:
    # Offsets rise with holes, as a viewer sees them where internal records are left out.
    offset = 0
    records: list[Record] = []
    for kind, data in _events(random):
        offset += random.randint(1, 3)
        records.append(Record(offset, kind, msgspec.json.encode(data)))
    half = random.randint(0, len(records))
    fold = Fold()
    fold.apply_all(records[:half])
    sync = _state(fold)
    fold.apply_all(records[half:])
    listed = [[record.type, record.offset, record.data] for record in records]
    return {"records": listed, "half": half, "sync": sync, "expected": _state(fold)}


async def test_modules_under_node(tmp_path: Path) -> None:
    """`node --test` over their own tests; the fold is compared with content.py on random runs."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node found: install Node.js 20 or later to test the JavaScript client and the page's modules")
    random = Random(7)
    cases = tmp_path / "fold.json"
    cases.write_bytes(msgspec.json.encode([_case(random) for _ in range(CASES)]))
    tests = sorted(str(path) for place in (CLIENT / "test", HERE) for path in place.glob("*.test.js"))
    assert len(tests) > 5
    process = await asyncio.create_subprocess_exec(
        node, "--test", "--test-timeout=120000", *tests,
        env={**os.environ, "UNSPOOL_FOLD_CASES": str(cases)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert re.search(rb"^(#|\xe2\x84\xb9) skipped 0$", output, re.MULTILINE), output.decode()
