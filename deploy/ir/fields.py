# SPDX-License-Identifier: MIT
"""What the fields of nodes may hold, read from the annotations of their classes."""

from dataclasses import fields, is_dataclass
from typing import Optional, Union, get_args, get_origin, get_type_hints

import numpy as np

from deploy.ir import nodes
from deploy.ir.base import Node

NODE_TYPES = {name: kind for name, kind in vars(nodes).items()
              if isinstance(kind, type) and issubclass(kind, Node) and kind is not Node}
ARRAY_TYPES = ("float32", "int8")
FLOAT32_MAX = float(np.finfo(np.float32).max)


def hints(kind) -> dict:
    """Field -> type, for every field of a dataclass in its order."""
    types = get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind)}


def inner(hint):
    """(T, True) for Optional[T], else (the hint, False)."""
    if get_origin(hint) is Union:
        return next(kind for kind in get_args(hint) if kind is not type(None)), True
    return hint, False


def element_types(hint, length) -> tuple:
    """The types of the elements of a tuple type; Tuple[T, ...] has as many as asked for."""
    types = get_args(hint)
    return types[:1] * length if types[-1] is Ellipsis else types


def misfit(value, hint) -> Optional[str]:
    """What keeps a value from being of the annotated type, None where nothing does."""
    hint, optional = inner(hint)
    if value is None and optional:
        return None
    if get_origin(hint) is tuple:
        return _misfit_tuple(value, hint)
    if is_dataclass(hint):
        return misfits(value) if type(value) is hint else _is_no(value, hint)
    if hint is np.ndarray:
        return _misfit_array(value)
    if hint is float:
        if not isinstance(value, (float, int, np.floating, np.integer)) or isinstance(value, bool):
            return _is_no(value, hint)
        return None if abs(value) <= FLOAT32_MAX else f"is {str(value):.40}, which float32 does not hold"
    if hint is int:
        return None if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else _is_no(value, hint)
    return None if isinstance(value, hint) else _is_no(value, hint)


def misfits(item) -> Optional[str]:
    """What is wrong with the fields of a dataclass, None where nothing is."""
    for name, hint in hints(type(item)).items():
        text = misfit(getattr(item, name), hint)
        if text:
            return f"{name} {text}"
    return None


def _is_no(value, hint):
    return f"is {value!r:.40}, not {hint.__name__}"


def _misfit_tuple(value, hint):
    if not isinstance(value, tuple):
        return _is_no(value, tuple)
    kinds = element_types(hint, len(value))
    if len(value) != len(kinds):
        return f"has {len(value)} values, not {len(kinds)}"
    return next((text for text in map(misfit, value, kinds) if text), None)


def _misfit_array(value):
    if not isinstance(value, np.ndarray):
        return _is_no(value, np.ndarray)
    if value.dtype.name not in ARRAY_TYPES:
        return f"is an array of {value.dtype}, not of {' or '.join(ARRAY_TYPES)}"
    return None if value.dtype.name != "float32" or np.isfinite(value).all() else "holds values that are not finite"
