"""The OpenAPI document of the native dialect; request bodies come from the very types that decode them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import msgspec

from unspool.http.requests import AbortBody, StartBody
from unspool.jobs import Metadata, Status
from unspool.resume import ResumeState

_ID: Final = {"type": "string", "minLength": 1, "maxLength": 256, "pattern": r"^[\x20-\x7e]*$"}
_MOST: Final = 10**15 - 1  # fifteen digits, as numbers in URLs and ids are read
_POSITION: Final = r"([0-9]{1,15}-)?[0-9]{1,15}"
_STREAM: Final = {
    "name": "stream_id", "in": "path", "required": True, "description": "What a client follows: a conversation.",
    "schema": _ID,
}  # fmt: skip
_GENERATION: Final = {
    "name": "generation", "in": "query", "description": "An older generation instead of the stream's last.",
    "schema": {"type": "integer", "minimum": 1, "maximum": _MOST},
}  # fmt: skip
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
_EVENT: Final = {
    "type": "object",
    "required": ["event", "data", "id"],
    "properties": {
        "event": {"type": "string", "description": "the record's type"},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "object"}},
        "id": {"type": "string", "pattern": "^[0-9]+-[0-9]+$"},
        "retry": {"type": "integer", "minimum": 0},
    },
}
_SCHEMAS: Final = msgspec.json.schema_components([ResumeState, Metadata])[1]
_RESUME: Final = _SCHEMAS["ResumeState"]["properties"]
_METADATA: Final = {"type": "object", "properties": _SCHEMAS["Metadata"]["properties"]}
_WHY: Final = {
    400: "The request is not valid",
    401: "Credentials are missing or wrong",
    402: "The account's balance does not cover what this may cost",
    404: "There is no such stream, or it is not yours",
    409: "The stream has moved on, or the position is not one of it",
    410: "It ended, and its retention time is over",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "A field is not valid",
    429: "As many generations are running as may; the answer lists them",
    503: "No capacity, shutting down, or the store is away",
}


def document(*, bearer: bool, ledger: bool = False) -> dict[str, Any]:
    """The document. `bearer`: the server wants a bearer token; `ledger`: it has accounts."""
    bodies, components = msgspec.json.schema_components(
        (StartBody, AbortBody), ref_template="#/components/schemas/{name}"
    )
    start, abort = bodies
    state: dict[str, Any] = {"$ref": "#/components/schemas/State"}
    one = "/v1/streams/{stream_id}"
    key = {
        "name": "Idempotency-Key", "in": "header", "description": "The same key attaches to the same generation.",
        "schema": _ID,
    }  # fmt: skip
    last_id = {
        "name": "Last-Event-ID", "in": "header", "description": "generation-offset; empty: none",
        "schema": {"type": "string", "pattern": f"^({_POSITION})?$"},
    }  # fmt: skip
    after = {
        "name": "after", "in": "query", "description": "The offset after which to begin, or generation-offset.",
        "schema": {"type": "string", "pattern": f"^{_POSITION}$", "default": "0"},
    }  # fmt: skip
    log = {
        "name": "log", "in": "query",
        "description": "The log that was followed, as `events_url` and the header X-Unspool-Log name it; "
        "another one of the same number is 409.",
        "schema": {"type": "string"},
    }  # fmt: skip
    snapshot = {
        "name": "snapshot", "in": "query", "description": "1: begin with one sync event, the content so far.",
        "schema": {"type": "string", "enum": ["0", "1", "false", "true"], "default": "0"},
    }  # fmt: skip
    status = {
        "name": "status", "in": "query", "description": "Only those in this status.",
        "schema": {"type": "string", "enum": list(Status)},
    }  # fmt: skip
    limit = {
        "name": "limit", "in": "query", "description": "How many at most: 100, and never more than 1000.",
        "schema": {"type": "integer", "minimum": 1, "maximum": _MOST},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "unspool", "version": version("unspool"), "license": {"name": "Apache-2.0"}},
        "security": [{"bearer": []}] if bearer else [],
        "paths": {
            "/v1/streams": {
                "get": _operation("list", "The caller's generations, newest first", [status, limit], {
                    200: _answer({"type": "object", "properties": {"streams": {"type": "array", "items": state}}}),
                }, 401, 422, 503),
            },
            one: {
                "get": _operation("status", "Status and resume state", [_STREAM, _GENERATION], {
                    200: _answer(state),
                }, 401, 404, 410, 422, 503),
            },
            f"{one}/generations": {
                "post": _operation("start", "Start a generation", [_STREAM, key], {
                    201: _answer({"$ref": "#/components/schemas/Started"}),
                    200: _answer({"$ref": "#/components/schemas/Started"}, "Attached by request id"),
                }, 400, 401, *((402,) if ledger else ()), 404, 409, 413, 415, 422, 429, 503, body=start),
            },
            f"{one}/events": {
                "get": _operation("follow", "Follow by SSE", [_STREAM, _GENERATION, last_id, after, log, snapshot], {
                    200: {
                        "description": "event = type, data = JSON, id = generation-offset; until a terminal one",
                        "content": {"text/event-stream": {"itemSchema": _EVENT}},
                    },
                    204: {"description": "It has ended, and nothing comes after this position"},
                }, 400, 401, 404, 409, 410, 503),
            },
            **(_money(one) if ledger else {}),
            "/healthz": {"get": _open("healthz", "The process lives", "application/json")},
            "/readyz": {"get": _open("readyz", "The store answers, and new work is taken", "application/json", 503)},
            "/metrics": {"get": _open("metrics", "What this replica counts, for Prometheus", "text/plain")},
            f"{one}/abort": {
                "post": _operation("abort", "Stop, and answer once it is sealed", [_STREAM], {
                    200: _answer({"$ref": "#/components/schemas/Outcome"}),
                }, 400, 401, 404, 410, 413, 415, 422, 503, body=abort, optional=True),
            },
        },
        "components": {
            "schemas": {**components, "Problem": _PROBLEM, **_ANSWERS},
            **({"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}} if bearer else {}),
        },
    }  # fmt: skip


_ANSWERS: Final[dict[str, Any]] = {
    "Started": {
        "type": "object",
        "required": ["stream_id", "generation", "status", "events_url"],
        "properties": {
            "stream_id": {"type": "string"},
            "generation": {"type": "integer", "minimum": 1},
            "status": {"type": "string", "enum": list(Status)},
            "events_url": {"type": "string"},
        },
    },
    "State": {
        "type": "object",
        "description": "A listing has no content, and none of what came with it.",
        "required": ["stream_id", "generation", "status", "active", "created_at", "elapsed", "last_offset"],
        "properties": {
            "stream_id": {"type": "string"},
            "active": {"type": "boolean"},
            "created_at": {"type": "number", "description": "Unix seconds"},
            "elapsed": {"type": "number", "description": "seconds, until its end where it has ended"},
            "first_offset": {"type": "integer", "description": "the oldest record that is kept"},
            "last_offset": {"type": "integer"},
            "user": {"type": ["string", "null"]},
            "metadata": _METADATA,
            **_RESUME,
            "status": {"type": "string", "enum": list(Status)},
        },
    },
    "Outcome": {
        "type": "object",
        "required": ["outcome", "stream_id", "generation", "status", "content", "text", "usage", "final"],
        "properties": {
            "outcome": {"type": "string", "enum": ["stopped", "already_settled", "save_failed"]},
            "stream_id": {"type": "string"},
            "generation": {"type": "integer"},
            "status": {"type": "string", "enum": list(Status)},
            "content": {"type": "array", "items": {"type": "object"}},
            "text": {"type": "string"},
            "usage": {"type": "array", "items": {"type": "object"}},
            "final": {"type": ["object", "null"]},
        },
    },
}


def _answer(schema: dict[str, Any], description: str = "Done") -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _money(one: str) -> dict[str, Any]:
    """The routes about accounts."""
    after = {
        "name": "after", "in": "query", "description": "The `next` of the page before.", "schema": {"type": "string"},
    }  # fmt: skip
    limit = {
        "name": "limit", "in": "query", "description": "How many at most (100).",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000},
    }  # fmt: skip
    nano = {"type": "integer", "description": "nano-USD"}
    balance = {
        "type": "object",
        "required": ["account", "posted", "held", "available", "debt", "floor"],
        "properties": {
            "account": {"type": "string"},
            **dict.fromkeys(("posted", "held", "available", "debt", "floor"), nano),
        },
    }
    entries = {
        "type": "object",
        "required": ["entries", "next"],
        "properties": {
            "entries": {"type": "array", "items": {"type": "object"}},
            "next": {"type": ["string", "null"], "description": "the cursor of the page after this one"},
        },
    }
    usage = {"type": "object", "description": "every model call, and the totals by agent and by model"}
    return {
        "/v1/account": {
            "get": _operation("balance", "The caller's account", [], {200: _answer(balance)}, 401, 404, 503),
        },
        "/v1/account/entries": {
            "get": _operation("entries", "Its entries, newest first", [after, limit], {200: _answer(entries)},
                              401, 404, 422, 503),
        },
        f"{one}/usage": {
            "get": _operation("usage", "What a generation used, and what it cost", [_STREAM, _GENERATION],
                              {200: _answer(usage)}, 401, 404, 410, 422, 503),
        },
    }  # fmt: skip


def _open(name: str, summary: str, media: str, *errors: int) -> dict[str, Any]:
    """A route for machines, which needs no credentials."""
    answer: dict[str, Any] = {"description": summary, "content": {media: {}}}
    kinds: dict[str, Any] = {"application/json": {}, "application/problem+json": {}}
    refused: dict[str, Any] = {"description": "Not now", "content": kinds}
    responses = {"200": answer} | {str(code): refused for code in errors}
    return {"operationId": name, "summary": summary, "security": [], "responses": responses}


def _operation(
    name: str, summary: str, parameters: list[Any], answers: dict[int, Any], *errors: int, body: Any = None,
    optional: bool = False,
) -> dict[str, Any]:  # fmt: skip
    refusal = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses = {str(code): answer for code, answer in answers.items()}
    responses |= {str(code): {"description": _WHY[code], "content": refusal} for code in errors}
    operation: dict[str, Any] = {
        "operationId": name, "summary": summary, "parameters": parameters, "responses": responses,
    }  # fmt: skip
    if body is not None:
        operation["requestBody"] = {"required": not optional, "content": {"application/json": {"schema": body}}}
    return operation
