"""Jobs: the status table as a table, and what is known of a turn."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from unspool.jobs import ACTIVE, GenerationKey, Metadata, Status, Trigger, transition

_EXPECTED = {
    (Status.RUNNING, Trigger.PAUSE): Status.REQUIRES_ACTION,
    (Status.REQUIRES_ACTION, Trigger.RESUME): Status.RUNNING,
}
for _active in (Status.RUNNING, Status.REQUIRES_ACTION):
    _EXPECTED |= {
        (_active, Trigger.COMPLETED): Status.COMPLETE,
        (_active, Trigger.FAILED): Status.ERROR,
        (_active, Trigger.ABORTED): Status.ABORTED,
        (_active, Trigger.REPLACED): Status.REPLACED,
    }


@pytest.mark.parametrize(("status", "trigger"), list(itertools.product(Status, Trigger)))
def test_the_table_is_the_law(status: Status, trigger: Trigger) -> None:
    """Every pair of status and trigger, allowed or not; nothing leaves a settled status."""
    assert transition(status, trigger) == _EXPECTED.get((status, trigger))
    assert status.settled is (status not in ACTIVE)


def test_metadata_is_what_a_store_reads_back() -> None:
    """Equal to what was written, whichever store keeps it as JSON and whichever as it is."""
    made = Metadata.of({"title": "T", "prompt_tokens": 0, "extra": {"a": [1]}})
    assert msgspec.json.decode(msgspec.json.encode(made), type=Metadata) == made


def test_a_key_reads_as_stream_and_number() -> None:
    """As in logs, ids and frames."""
    assert str(GenerationKey("conv-71", 3)) == "conv-71/3"
