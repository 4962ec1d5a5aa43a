"""A griffe extension: fields of structs, named tuples and typed dicts are shown as those of dataclasses are."""

from __future__ import annotations

from typing import Any, Final

import griffe

_BASES: Final = frozenset({"msgspec.Struct", "typing.NamedTuple", "typing.TypedDict"})


class Structs(griffe.Extension):
    """Gives such a class an `__init__` with its fields as parameters, those that it inherits first."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once the whole package is known."""
        _visit(pkg)


def _visit(parent: griffe.Module | griffe.Class) -> None:
    for member in parent.members.values():
        if isinstance(member, griffe.Module | griffe.Class):
            _visit(member)
        if isinstance(member, griffe.Class) and "__init__" not in member.members and (fields := _fields(member)):
            keyword = member.keywords.get("kw_only") is not None
            member.set_member("__init__", _init(member, fields, keyword=keyword))


def _fields(cls: griffe.Class) -> dict[str, griffe.Attribute]:
    found: dict[str, griffe.Attribute] = {}
    for base in cls.resolved_bases:
        if isinstance(base, griffe.Class):
            found |= _fields(base)
    if found or any(getattr(base, "canonical_path", "") in _BASES for base in cls.bases):
        for name, attribute in cls.attributes.items():
            if attribute.annotation is not None and "property" not in attribute.labels:
                found[name] = attribute
    return found


def _init(cls: griffe.Class, fields: dict[str, griffe.Attribute], *, keyword: bool) -> griffe.Function:
    kind = griffe.ParameterKind.keyword_only if keyword else griffe.ParameterKind.positional_or_keyword
    parameters = [
        griffe.Parameter(name, annotation=field.annotation, kind=kind, default=field.value)
        for name, field in fields.items()
    ]
    return griffe.Function("__init__", parent=cls, parameters=griffe.Parameters(*parameters), returns="None")
