"""The memory back end's log reads the same, packed or not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unspool.backends.memory.log import SEGMENT, Log
from unspool.events import Record

LENGTHS = st.sampled_from([0, 1, 2, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT + 7])


@given(LENGTHS, st.integers(0, 1600), st.integers(0, 1700), st.integers(1, 1100))
def test_packing_changes_no_answer(length: int, trimmed: int, after: int, limit: int) -> None:
    """Any page of any log, trimmed or whole, is the same before and after, and as a plain list has it."""
    records = [Record(n, "custom", b'{"n":%d}' % n, internal=n % 3 == 0) for n in range(1, length + 1)]
    log = Log()
    log.extend(records)
    log.trim(min(trimmed, length))
    expected = [record for record in records if record.offset > max(after, min(trimmed, length))][:limit]
    before = (log.first, log.last, log.after(after, limit))
    log.pack()
    assert before == (log.first, log.last, log.after(after, limit))
    assert before[2] == expected
