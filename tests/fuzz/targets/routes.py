"""Every route of the real application, from its own OpenAPI document: what it answers is what the document says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.fuzz.target import Target
from unspool import GenerationManager, Limits, Options
from unspool.http import StartRequest, create_app
from unspool.producer import Generation

CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
]


async def answer(gen: Generation, request: StartRequest) -> None:
    """A run that ends at once, so that every stream does."""
    await gen.emit("created", {"user_message": {"id": "m", "text": "hi"}})
    await gen.text("answer")
    await gen.usage("c", input_tokens=1)


@cache
def _schema() -> Any:
    options = Options(max_jobs=200, sweep=0.5, poll=0.1, limits=Limits(stall=5.0))
    app = create_app(GenerationManager(options=options), run=answer, page=False)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def operations() -> Iterator[Any]:
    for found in _schema().get_all_operations():
        yield found.ok()


def check_route(case: Any) -> None:
    """No 5xx; the status, the type and the shape of every answer are declared; bad input is refused, and named."""
    response = case.call()
    checks = [check for check in CHECKS if check is not positive_data_acceptance or not _has_whole_float(case.body)]
    case.validate_response(response, checks=checks)
    if response.status_code in (400, 422):
        told = response.json()
        assert told["detail"], told
        assert told["status"] == response.status_code


def _has_whole_float(value: object) -> bool:
    # JSON Schema counts 1.0 as an integer; this server wants it written as one.
    if isinstance(value, dict | list):
        return any(_has_whole_float(inner) for inner in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


@st.composite
def _cases(draw: st.DrawFn) -> Any:
    """Any operation, with input that its document allows or with input that it does not."""
    operation = draw(st.sampled_from(list(operations())))
    mode = draw(st.sampled_from([GenerationMode.POSITIVE, GenerationMode.NEGATIVE]))
    return draw(operation.as_strategy(generation_mode=mode))


ROUTES = Target(
    name="routes",
    claim="every answer of every route is declared in the OpenAPI document, and bad input is refused by name",
    inputs=st.deferred(_cases),
    check=check_route,
)

TARGETS = [ROUTES]
