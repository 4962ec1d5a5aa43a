"""Jobs: the status table as a table, what is known of a turn, and the names of streams."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import InvalidArgument
from unspool.jobs import (
    ACTIVE,
    GenerationKey,
    Limits,
    Metadata,
    Status,
    Trigger,
    Whole,
    call_id,
    chained,
    check_tenant,
    patched,
    stream_name,
    stream_of,
    transition,
)

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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in Limits.__struct_fields__
            for value in (-1, float("nan"), float("inf"), "1", None)
        ),
        ("log_bytes", 0.5),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(field: str, value: Any) -> None:
    """Else the generation ends at once, or never, or its record cannot be read again."""
    with pytest.raises(InvalidArgument, match=field):
        Limits(**{field: value})
    assert getattr(Limits(**{field: 0}), field) == 0


def test_a_key_reads_as_stream_and_number() -> None:
    """As in logs, ids and frames."""
    assert str(GenerationKey("conv-71", 3)) == "conv-71/3"


_IDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12) | st.sampled_from(
    ["@", "@/", "@/a", "@a/1", "%40", "a/1", "/"]
)
_TENANTS = st.none() | st.sampled_from(["@", "a", "a/1", "%", "%40", "ä", "🧵", " "]) | st.text(min_size=1, max_size=8)


@given(st.tuples(_IDS, _TENANTS), st.tuples(_IDS, _TENANTS))
def test_the_names_of_streams_are_one_to_one(one: tuple[str, str | None], two: tuple[str, str | None]) -> None:
    """A name leads back to id and tenant, whatever characters they have; so no two streams share one."""
    try:
        names = stream_name(*one), stream_name(*two)
    except UnicodeEncodeError:  # a surrogate: `check_tenant` refuses it
        return
    assert [stream_of(name) for name in names] == [one, two]
    assert (names[0] == names[1]) is (one == two)
    assert names[0].isascii()


def test_names_of_streams() -> None:
    """As the documentation says them: applications without tenants see their own ids."""
    assert stream_name("conv-71", None) == "conv-71"
    assert stream_name("conv-71", "acme") == "@acme/conv-71"
    assert stream_name("@x", None) == "@/@x"
    assert stream_name("1", "a b/ü") == "@a%20b%2F%C3%BC/1"
    with pytest.raises(InvalidArgument):
        stream_name("conv-71", "")


@pytest.mark.parametrize("tenant", ["", "a\nb", "\ud800", "§ds", "x" * 257, "ä" * 50, 7])
def test_a_tenant_that_is_no_name_is_refused(tenant: Any) -> None:
    """Above all the empty one, which an application would take for none."""
    with pytest.raises(InvalidArgument):
        check_tenant(tenant)


@pytest.mark.parametrize("tenant", [None, "acme", "x" * 256, "ä" * 42, "a b/@"])
def test_a_tenant_that_is_a_name_is_taken(tenant: str | None) -> None:
    check_tenant(tenant)


def test_no_two_calls_share_an_id_whatever_they_are_called() -> None:
    keys = [GenerationKey("a", 1), GenerationKey("a/1", 2), GenerationKey("a/1/2", 3)]
    words = ["main", "2/main", "1/2/main", "2%2Fmain", "%2F", "%252F", "/"]
    ids = [call_id(key, agent, step, 1) for key in keys for agent in words for step in words]
    assert len(set(ids)) == len(ids)
    assert call_id(keys[0], "main", "0", 2) == "a/1/main/0/2"
    assert call_id(keys[0], "main", "0", 2).startswith(call_id(keys[0], "main", "0"))


_values = st.recursive(
    st.none() | st.integers(0, 2), lambda inner: st.dictionaries(st.sampled_from("ab"), inner, max_size=2), max_leaves=6
)
_patches = st.dictionaries(st.sampled_from("ab"), _values, max_size=2)


@given(value=_patches, first=_patches, then=_patches)
def test_two_patches_in_one_do_what_both_do(value: Any, first: Any, then: Any) -> None:
    """Also where the second sets an object in the place of what the first has removed."""
    once = patched(patched(value, first), then)
    assert patched(value, chained(first, then)) == once


@pytest.mark.parametrize(
    ("value", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, "bar", "bar"),
        (None, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": {"b": 1}}, {"a": Whole({"c": None})}, {"a": {"c": None}}),
    ],
)
def test_a_merge_patch_is_that_of_rfc_7396(value: Any, patch: Any, expected: Any) -> None:
    """Cases of its appendix, and a whole object."""
    assert patched(value, patch) == expected
