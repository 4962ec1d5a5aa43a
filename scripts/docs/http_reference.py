"""The HTTP reference, as Markdown, from the server's OpenAPI document: what it does not declare is not said here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast

from unspool.http.openapi import document

Schema = Mapping[str, Any]

_REF: Final = "#/components/schemas/"
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def http_reference(described: Schema | None = None) -> str:
    """Every operation with its parameters, body and answers, then every schema that they name."""
    described = document(bearer=True) if described is None else described
    lines: list[str] = []
    for path, item in described["paths"].items():
        for method in _METHODS:
            if method in item:
                lines += _operation(method, path, item[method])
    lines += ["### Schemas", ""]
    for name, schema in described["components"]["schemas"].items():
        lines += _schema(name, schema)
    return "\n".join(lines)


def _operation(method: str, path: str, operation: Schema) -> list[str]:
    lines = [f"### `{method.upper()} {path}` {{ #{operation['operationId']} }}", "", f"{operation['summary']}.", ""]
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{one['name']}`", one["in"], _kind(one["schema"]), _meaning(one, one["schema"])) for one in parameters
        ]
        lines += _table(("parameter", "in", "type", "meaning"), rows)
    if body := operation.get("requestBody"):
        needed = "Body" if body.get("required") else "Body, optional"
        for media_type, content in body["content"].items():
            lines += [f"{needed}: `{media_type}`, {_kind(content['schema'])}.", ""]
    answers = sorted(operation["responses"].items())
    good = [
        (f"{code} {HTTPStatus(int(code)).phrase}", _content(answer), answer["description"])
        for code, answer in answers
        if int(code) < HTTPStatus.BAD_REQUEST
    ]
    refused = "; ".join(
        f"**{code}** {answer['description'][0].lower()}{answer['description'][1:]}"
        for code, answer in answers
        if int(code) >= HTTPStatus.BAD_REQUEST
    )
    lines += _table(("status", "body", "when"), good)
    return [*lines, f"Refused with a [Problem](#schema-problem): {refused}.", ""] if refused else lines


def _content(answer: Schema) -> str:
    kinds: list[str] = []
    for media_type, content in answer.get("content", {}).items():
        if "itemSchema" in content:
            kinds.append(f"`{media_type}`, each event: {_kind(content['itemSchema'])}")
        else:
            kinds.append(_kind(content["schema"]) if "schema" in content else f"`{media_type}`")
    return "<br>".join(kinds)


def _schema(name: str, schema: Schema) -> list[str]:
    lines = [f"#### {name} {{ #schema-{name.lower()} }}", ""]
    if schema.get("description"):
        lines += [f"{schema['description'].rstrip('.')}.", ""]
    needed = set(schema.get("required", ()))
    rows = [
        (f"`{field}`", _kind(kind), "yes" if field in needed else "", _meaning(kind))
        for field, kind in schema.get("properties", {}).items()
    ]
    return lines + _table(("field", "type", "always", "meaning"), rows)


def _kind(schema: Schema) -> str:
    """A schema in a few words."""
    if ref := schema.get("$ref"):
        name = ref.removeprefix(_REF)
        return f"[{name}](#schema-{name.lower()})"
    if choices := schema.get("anyOf"):
        # One that is null may be left out as well, which is what the column "always" says.
        return " or ".join(_kind(choice) for choice in choices if choice.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(map(str, cast("list[object]", kind)))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and (properties := schema.get("properties")):
        return "object with " + ", ".join(
            f"`{field}` ({_kind(one)})" if len(properties) == 1 else f"`{field}`" for field, one in properties.items()
        )
    return kind + _bounds(schema)


def _bounds(schema: Schema) -> str:
    if "minLength" in schema or "maxLength" in schema:
        return f", {schema.get('minLength', 0)} to {schema.get('maxLength', '…')} characters"
    if "minimum" in schema:
        return f" from {schema['minimum']}"
    return ""


def _meaning(*described: Schema) -> str:
    """What is said of something, and its default; the first description that is there."""
    text = next((one["description"] for one in described if one.get("description")), "")
    default = next((one["default"] for one in described if one.get("default") is not None), None)
    said = [re.sub(r"\s+", " ", text).rstrip(".")] if text else []
    if default is not None:
        said.append(f"default `{default}`")
    return "; ".join(said)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    kept = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [f"| {' | '.join(head[place] for place in kept)} |", "|" + "---|" * len(kept)]
    lines += [f"| {' | '.join(row[place].replace('|', '&#124;') for place in kept)} |" for row in rows]
    return [*lines, ""]
