"""What requests say, as values: whole numbers, and how large a body is."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.types import Message

from unspool.errors import BadRequest, BodyTooLarge, InvalidArgument
from unspool.http.requests import received, whole


@pytest.mark.parametrize("value", ["0", "7", "100"])
def test_a_whole_number_is_taken(value: str) -> None:
    assert whole("limit", value, 0, 100) == int(value)


@pytest.mark.parametrize(
    "value", ["", "-1", "+1", " 1", "1 ", "01", "1_0", "1e1", "1.0", "\u00b2", "\u0663", "101", "9" * 16, "9" * 5000]
)
def test_what_is_no_whole_number_is_refused_with_its_field_and_bounds(value: str) -> None:
    """Also digits that are none in ASCII, which `int` takes or raises for."""
    for refusal in (InvalidArgument, BadRequest):
        with pytest.raises(refusal, match="limit must be a whole number from 0 to 100") as raised:
            whole("limit", value, 0, 100, refusal=refusal)
        assert raised.value.details["field"] == "limit"
    with pytest.raises(InvalidArgument, match="whole number from 1,"):
        whole("generation", "0", 1)


@pytest.mark.parametrize("declared", ["\u00b2", "9" * 5000, "", "-1"])
async def test_a_length_that_is_no_number_is_not_believed(declared: str) -> None:
    """The bytes that come are counted."""
    headers = [(b"content-length", declared.encode("latin-1"))]

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": False}

    def request() -> Request:
        return Request({"type": "http", "method": "POST", "headers": headers}, receive)

    assert await received(request(), 10) == b"x" * 10
    with pytest.raises(BodyTooLarge):
        await received(request(), 9)
