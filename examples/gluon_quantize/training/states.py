# SPDX-License-Identifier: MIT
"""The state of an optimizer as arrays in an npz file: reading one runs no code, which MXNet's own pickles would.

The file holds one array for each number that the optimizer keeps for a parameter, and ``layout``, JSON as bytes: the
optimizer's class, its counters, and for each parameter how its arrays hang together: null, an array's name, a list, or
``{"value": number}`` and ``{"items": [[key, ...], ...]}`` (LBSGD collects gradients in a dictionary).
"""

import json
import pathlib
from typing import Any, Dict, Union

import msgspec
import mxnet as mx
import numpy as np
from mxnet import gluon
from typing_extensions import Annotated

from quantize.documents import checked, parse_json
from quantize.errors import DataError, ModelFileError, QuantizeError
from quantize.npz import read_npz

LAYOUT, SUFFIX = "layout", ".npz"
COLLECTIONS = ("cumgrads",)
MOST = 2 ** 53  # counters beyond it are none


def write_state(path: pathlib.Path, trainer: gluon.Trainer) -> None:
    """Write what a trainer without a kvstore knows beside the parameters; DataError for what arrays cannot hold."""
    updater = trainer._updaters[0]
    arrays: Dict[str, np.ndarray] = {}
    trees = {str(index): _taken_apart(state, str(index), arrays) for index, state in updater.states.items()}
    optimizer = updater.optimizer
    kept = {name: _taken_apart(value, name, arrays) for name, value in _collections(optimizer).items()}
    layout = {"optimizer": type(optimizer).__name__, "numbers": _numbers(optimizer), "states": trees, "kept": kept,
              "updates": {str(index): count for index, count in optimizer._index_update_count.items()}}
    arrays[LAYOUT] = np.frombuffer(json.dumps(layout, sort_keys=True).encode(), np.uint8)
    np.savez(str(path), **arrays)


def _numbers(optimizer) -> Dict[str, Any]:
    """Plain numbers that an optimizer counts or multiplies up as it goes."""
    return {name: value for name, value in vars(optimizer).items() if type(value) in (int, float, bool)}


def _collections(optimizer) -> Dict[str, Any]:
    """Dictionaries in which an optimizer keeps arrays of its own."""
    return {name: value for name, value in vars(optimizer).items() if name in COLLECTIONS and isinstance(value, dict)}


def _taken_apart(state, name, arrays):
    if state is None:
        return None
    if type(state) in (int, float, bool):
        return {"value": state}
    if isinstance(state, dict):
        return {"items": [[key, _taken_apart(part, f"{name}.{key}", arrays)] for key, part in state.items()]}
    if isinstance(state, mx.nd.NDArray):
        arrays[name] = state.asnumpy()
        return name
    if isinstance(state, (list, tuple)):
        return [_taken_apart(part, f"{name}.{number}", arrays) for number, part in enumerate(state)]
    raise DataError(f"checkpoint: the optimizer's state holds a {type(state).__name__}, which cannot be saved; choose "
                    "another --optimizer")


class Layout(msgspec.Struct, forbid_unknown_fields=True):
    """The member `layout`."""

    optimizer: str
    numbers: Dict[str, Union[bool, Annotated[int, msgspec.Meta(gt=-MOST, lt=MOST)], float]]
    states: Dict[str, Any]
    kept: Dict[str, Any]
    updates: Dict[str, Annotated[int, msgspec.Meta(ge=0, lt=MOST)]]


def read_state(path: pathlib.Path, trainer: gluon.Trainer) -> None:
    """Put what `write_state` wrote into a trainer of the same parameters; ModelFileError for another file."""
    updater = trainer._updaters[0]
    optimizer = updater.optimizer
    weights = {str(index): (index, parameter) for index, parameter in enumerate(trainer._params)}
    try:
        arrays = read_npz(path)
        layout = checked(parse_json(arrays[LAYOUT].tobytes().decode(), LAYOUT), Layout, LAYOUT)
    except (QuantizeError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path}: is no state of an optimizer, or is damaged: {error}") from None
    if layout.optimizer != type(optimizer).__name__:
        raise ModelFileError(f"{path}: is the state of {layout.optimizer}, the optimizer is "
                             f"{type(optimizer).__name__}")
    try:
        states = {weights[name][0]: _put_together(tree, arrays, weights[name][1].list_ctx()[0])
                  for name, tree in layout.states.items()}
        kept = {key: _put_together(layout.kept.get(key, {"items": []}), arrays, mx.cpu())
                for key in _collections(optimizer)}
        updates = {weights[name][0]: count for name, count in layout.updates.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: is no state of an optimizer, or is damaged ({type(error).__name__}: {error})"
                             ) from None
    for index, state in states.items():
        fresh = optimizer.create_state_multi_precision(index, weights[str(index)][1].list_data()[0])
        if not _is_like(state, fresh):
            raise ModelFileError(f"{path}: the state of parameter {index} is none that {layout.optimizer} keeps for it")
    updater.states.update(states)
    updater.states_synced.update(dict.fromkeys(states, True))
    for key, value in kept.items():
        setattr(optimizer, key, value)
    _count(optimizer, layout.numbers, updates)


def _is_like(state: Any, fresh: Any) -> bool:
    """Whether a state hangs together as the one that the optimizer itself begins with: MXNet does not look."""
    if isinstance(fresh, mx.nd.NDArray):
        return isinstance(state, mx.nd.NDArray) and (state.shape, state.dtype) == (fresh.shape, fresh.dtype)
    if isinstance(fresh, (list, tuple)):
        return (isinstance(state, (list, tuple)) and len(state) == len(fresh)
                and all(_is_like(one, other) for one, other in zip(state, fresh)))
    return state is None if fresh is None else type(state) in (int, float, bool)


def _put_together(tree, arrays, ctx):
    if tree is None:
        return None
    if isinstance(tree, dict):
        if "value" in tree:
            return tree["value"]
        return {key: _put_together(part, arrays, ctx) for key, part in tree["items"]}
    if isinstance(tree, str):
        return mx.nd.array(arrays[tree], ctx=ctx, dtype=arrays[tree].dtype)
    return tuple(_put_together(part, arrays, ctx) for part in tree)


def _count(optimizer, numbers, updates):
    for name in _numbers(optimizer):
        if type(numbers.get(name)) in (int, float, bool):
            setattr(optimizer, name, numbers[name])
    optimizer._index_update_count.clear()
    optimizer._index_update_count.update(updates)
