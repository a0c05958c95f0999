# SPDX-License-Identifier: MIT
"""Formats, rules and plans as JSON and back: a few kinds of frozen values, by name, and nothing else."""

import dataclasses
from typing import Any

from quantize.config import Format, Rule
from quantize.convert.plan import Plan, PlanEntry
from quantize.errors import ModelFileError, QuantizeError
from quantize.spec import PerChannel, PerGroup, PerTensor, QuantSpec
from quantize.winograd import WinogradSpec

KIND = "kind"
KINDS = {kind.__name__: kind for kind in (
    Format, PerChannel, PerGroup, PerTensor, Plan, PlanEntry, QuantSpec, Rule, WinogradSpec)}


def encoded(value: Any) -> Any:
    """A value as JSON can hold it: tuples become lists, values of `KINDS` dictionaries with their kind."""
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if type(value).__name__ in KINDS and dataclasses.is_dataclass(value):
        fields = {field.name: encoded(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {KIND: type(value).__name__, **fields}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} is no part of a plan or a rule")


def decoded(value: Any) -> Any:
    """What `encoded` made; lists become tuples. ModelFileError for another kind, a field it lacks, a wrong value."""
    if isinstance(value, list):
        return tuple(decoded(item) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get(KIND)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ModelFileError(f"{name!r} is no kind of value; known: {', '.join(sorted(KINDS))}")
    known = {field.name for field in dataclasses.fields(kind)}
    fields = {name: decoded(item) for name, item in value.items() if name != KIND}
    if set(fields) - known:
        raise ModelFileError(f"a {kind.__name__} has no {sorted(set(fields) - known)[0]!r}; use the release that wrote "
                             "the file")
    try:
        return kind(**fields)
    except (QuantizeError, TypeError, ValueError) as error:
        raise ModelFileError(f"a {kind.__name__} that cannot be: {error}") from None
