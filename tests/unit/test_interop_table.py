"""The table of `make interop`: from the names of tests alone."""

from __future__ import annotations

from tests.interop.table import table


def test_a_row_for_each_check_and_a_column_for_each_store() -> None:
    base = "tests/interop/dialects/test_ai_sdk.py::test_stop"
    lines = list(
        table(
            [
                (f"{base}[memory-default]", "passed"),
                (f"{base}[memory-websocket]", "passed"),
                (f"{base}[redis-default]", "failed"),
                (f"{base}_in_chromium[redis-direct]", "skipped"),
                ("tests/interop/test_nginx.py::test_heart_beats", "passed"),
                ("what is no test", "passed"),
            ]
        )
    )
    assert lines == [
        "client  check             memory  redis    without",
        "ai sdk  stop              2 ok    FAILED",
        "ai sdk  stop in chromium          not run",
        "nginx   heart beats                        ok",
    ]
