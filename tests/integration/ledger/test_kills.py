"""kill -9 at random moments, several processes on the same calls: each call is charged once, on both engines.

`UNSPOOL_LEDGER_KILLS=200` does it at length.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from tests.integration.ledger.conftest import Office
from tests.integration.ledger.fuzz import LEAST

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("UNSPOOL_LEDGER_KILLS", "12"))


@pytest.mark.timeout(120 + KILLS * 3)
async def test_killed_at_random_moments(office: Office) -> None:
    await office.open()  # the tables
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.ledger.fuzz", office.url, "--kills", str(KILLS),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    found = msgspec.json.decode(out)
    print(found)
    assert process.returncode == 0, found
    assert found["calls"] >= LEAST
    assert (found["wrong"], found["held"], found["open"], found["faults"]) == ([], 0, 0, [])
