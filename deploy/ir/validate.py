# SPDX-License-Identifier: MIT
"""Whether a model is one: what lowering must produce, and what a file may hold.

What fields may hold is read from the annotations of the nodes' classes; how blobs, shapes and operations fit together
is checked behind that.
"""

from dataclasses import fields, is_dataclass
from functools import lru_cache
from math import prod
from typing import Any, Dict, List, Optional, Tuple, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from deploy.ir.model import NODE_TYPES, Function, Model, Rounding, activation, integers
from deploy.ir.shapes import RULES, demand
from quantize.errors import DeployError
from quantize.escape import shown

ARRAY_TYPES = ("float32", "int8", "int16")
FLOAT32_MAX = float(np.finfo(np.float32).max)
# parameters of each kind of activation function
FUNCTIONS = {"relu": 0, "leaky_relu": 1, "clip": 2, "sigmoid": 0, "tanh": 0, "hard_sigmoid": 2, "hard_swish": 2,
             "swish": 0, "softplus": 0, "gelu": 0, "elu": 1, "exp": 0, "abs": 0, "square": 0, "sqrt": 0,
             "rsqrt": 0, "log": 0, "erf": 0, "floor": 0, "ceil": 0, "sin": 0, "cos": 0}
SAID, LONGEST = 20, 300  # problems that an error lists, letters of each
SEVERAL_INPUTS = ("Elementwise", "Concat")
MAX_ELEMENTS = 2 ** 31
INT8_MAX, LARGEST = 127, 255  # codes of weights; beyond 127 they need 16 bits


def validate(model: Model) -> None:
    """DeployError that lists the problems, if there are any."""
    found = problems(model)
    if found:
        more = [f"and {len(found) - SAID} more"] if len(found) > SAID else []
        raise DeployError("not a valid model:\n" + "\n".join(shown(text)[:LONGEST] for text in found[:SAID] + more))


def problems(model: Model) -> List[str]:
    """What is wrong with a model, each with the node's path or name; empty for a valid one."""
    found = _blob_problems(model) + [text for text in map(_type_problem, model.nodes) if text]
    if found:
        return found  # these make others meaningless
    known = set(model.inputs)
    names: Dict[str, int] = {}
    for node in model.nodes:
        found += [f"{node.path or node.name}: {text}" for text in _node_problems(node, model, known)]
        names[node.name] = names.get(node.name, 0) + 1
        known.update(node.outputs)
    found += [f"{name}: {count} nodes have this name" for name, count in names.items() if count > 1]
    found += [f"output {name}: no node writes it" for name in model.outputs if name not in known]
    found += [f"blob {name}: it has a shape, but no node writes it" for name in model.shapes
              if name not in known]
    return found


def _blob_problems(model):
    found = []
    if not (model.inputs and model.outputs and model.nodes):
        found.append("a model needs inputs, outputs and nodes")
    for name, shape in model.shapes.items():
        if not _is_name(name):
            found.append(f"blob {name!r}: a name is one word of printable characters")
        if not (isinstance(shape, tuple) and shape and all(misfit(size, int) is None and size > 0 for size in shape)
                and prod(shape) <= MAX_ELEMENTS):
            found.append(f"blob {name}: {shape} is no shape")
    if not all(isinstance(text, str) for item in model.metadata.items() for text in item):
        found.append("metadata: keys and values must be text")
    for name in model.inputs:
        if name not in model.shapes:
            found.append(f"input {name}: its shape is missing")
    return found


def _is_name(name):
    return isinstance(name, str) and name.isprintable() and len(name.split()) == 1 and name == name.strip()


def _type_problem(node):
    kind = type(node).__name__
    if NODE_TYPES.get(kind) is not type(node):
        return f"{node!r:.40} is no operation of the representation"
    text = misfits(node)
    return f"{kind} {node.name!r:.40}: {text}" if text else None


def _node_problems(node, model, known):
    """Problems of one node with fields of the right types; its shapes are looked at only where its blobs are right."""
    found = [] if _is_name(node.name) else [f"{node.name!r}: a name is one word of printable characters"]
    found += [f"it reads {name}, which no earlier node writes" for name in node.inputs if name not in known]
    found += [f"it writes {name}, which is written already" for i, name in enumerate(node.outputs)
              if name in known or name in node.outputs[:i]]
    found += [f"the shape of {name} is missing" for name in node.inputs + node.outputs
              if name not in model.shapes]
    if found:
        return found
    try:
        _check(node, model)
    except DeployError as error:
        return [str(error)]
    return []


def _check(node, model):
    """DeployError where the node does not fit the shapes, or itself."""
    kind = type(node).__name__
    demand(len(node.inputs) == 1 or node.inputs and kind in SEVERAL_INPUTS, f"{kind} reads {len(node.inputs)} blobs")
    demand(len(node.outputs) == 1 or node.outputs and kind == "Slice", f"{kind} writes {len(node.outputs)} blobs")
    _check_function(activation(node))
    shapes = RULES[type(node)](node, [model.shapes[name] for name in node.inputs])
    for name, shape in zip(node.outputs, shapes):
        demand(model.shapes[name] == shape, f"its output {name} has the shape {shape}, not {model.shapes[name]}")
    for name, value in vars(node).items():
        demand(not isinstance(value, np.ndarray) or value.dtype == np.float32, f"{name} is not an array of float32")
    if isinstance(node, Rounding):
        _check_grid(node.grid)
    quantization = integers(node)
    if quantization is not None:
        _check_quantization(quantization, node.weight)


def _check_function(function: Optional[Function]) -> None:
    if function is None:
        return
    demand(function.kind in FUNCTIONS, f"unknown activation function {function.kind!r}; known: "
                                       f"{', '.join(sorted(FUNCTIONS))}")
    demand(len(function.parameters) == FUNCTIONS[function.kind],
           f"{function.kind} has {len(function.parameters)} parameters, not {FUNCTIONS[function.kind]}")
    demand(function.kind != "clip" or function.parameters[0] <= function.parameters[-1],
           f"clip between {function.parameters}")


def _check_grid(grid):
    demand(np.float32(grid.scale) == grid.scale and grid.scale > 0,
           f"the scale of its grid is {grid.scale!r}, which is no positive float32")
    demand(grid.qmin <= grid.zero_point <= grid.qmax and grid.qmin < grid.qmax and grid.qmax - grid.qmin < 2 ** 16,
           f"the codes of its grid, from {grid.qmin} to {grid.qmax} with zero at {grid.zero_point}, are no grid")


def _check_quantization(quantization, weight):
    codes, scales = quantization.weight_q, quantization.weight_scale
    _check_grid(quantization.input)
    wide = quantization.weight_qmax > INT8_MAX
    demand(codes.dtype == (np.int16 if wide else np.int8) and codes.shape == weight.shape,
           f"its weight codes are {codes.dtype} of shape {codes.shape}, not {'int16' if wide else 'int8'} of "
           f"{weight.shape}")
    demand(0 < quantization.weight_qmax <= LARGEST and np.abs(codes.astype(int)).max() <= quantization.weight_qmax,
           f"its weight codes go beyond {quantization.weight_qmax} ({LARGEST} at most)")
    demand(scales.dtype == np.float32 and scales.shape == weight.shape[:1] and (scales > 0).all(),
           f"its weight scales, {scales.dtype} of shape {scales.shape}, are not one positive float32 for each output")


# ---- fields


@lru_cache(maxsize=None)  # asked for at every value of a file
def hints(kind: Any) -> Dict[str, Any]:
    """Field -> type, for every field of a dataclass in its order."""
    types = get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind)}


@lru_cache(maxsize=None)
def inner(hint: Any) -> Tuple[Any, bool]:
    """(T, True) for Optional[T], else (the hint, False)."""
    if get_origin(hint) is Union:
        return next(kind for kind in get_args(hint) if kind is not type(None)), True
    return hint, False


@lru_cache(maxsize=4096)
def element_types(hint: Any, length: int) -> Tuple[Any, ...]:
    """The types of the elements of a tuple type; Tuple[T, ...] has as many as asked for."""
    types = get_args(hint)
    return types[:1] * length if types[-1] is Ellipsis else types


@lru_cache(maxsize=None)
def sort(hint: Any) -> Any:
    """Tuple for a tuple type, `fields` for a dataclass, None for anything else."""
    return tuple if get_origin(hint) is tuple else fields if is_dataclass(hint) else None


def misfit(value: Any, hint: Any) -> Optional[str]:
    """What keeps a value from being of the annotated type, None where nothing does."""
    hint, optional = inner(hint)
    if value is None and optional:
        return None
    kind = sort(hint)
    if kind is tuple:
        return _misfit_tuple(value, hint)
    if kind is fields:
        return misfits(value) if type(value) is hint else _is_no(value, hint)
    if hint is np.ndarray:
        return _misfit_array(value)
    if hint is float:
        if not isinstance(value, (float, int, np.floating, np.integer)) or isinstance(value, bool):
            return _is_no(value, hint)
        size: Any = abs(value)  # not float(value): a whole number may be too large for that
        return None if size <= FLOAT32_MAX else f"is {str(value):.40}, which float32 does not hold"
    if hint is int:
        return None if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else _is_no(value, hint)
    return None if isinstance(value, hint) else _is_no(value, hint)


def misfits(item: Any) -> Optional[str]:
    """What is wrong with the fields of a dataclass, None where nothing is."""
    for name, hint in hints(cast(Any, type(item))).items():
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
