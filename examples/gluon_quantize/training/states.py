# SPDX-License-Identifier: MIT
"""The state of an optimizer as arrays in an npz file: reading one runs no code, which MXNet's own pickles would.

The file holds one array for each number that the optimizer keeps for a parameter, and ``layout``, JSON as bytes: the
optimizer's class, its counters, and for each parameter how its arrays hang together: null, an array's name, a list, or
``{"value": number}`` and ``{"items": [[key, ...], ...]}`` (LBSGD collects gradients in a dictionary).
"""

import json
import pathlib
import zipfile
from typing import Any, Dict

import mxnet as mx
import numpy as np
from mxnet import gluon

from quantize.errors import DataError, ModelFileError

LAYOUT, SUFFIX = "layout", ".npz"
COLLECTIONS = ("cumgrads",)


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


def read_state(path: pathlib.Path, trainer: gluon.Trainer) -> None:
    """Put what `write_state` wrote into a trainer of the same parameters; ModelFileError for another file."""
    try:
        with np.load(str(path), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        layout = json.loads(arrays[LAYOUT].tobytes().decode())
        contexts = {index: parameter.list_ctx()[0] for index, parameter in enumerate(trainer._params)}
        states = {int(index): _put_together(tree, arrays, contexts[int(index)])
                  for index, tree in layout["states"].items()}
        updates = {int(index): int(count) for index, count in layout["updates"].items()}
        name, numbers = layout["optimizer"], dict(layout["numbers"])
        kept = {key: _put_together(tree, arrays, contexts[0]) for key, tree in layout["kept"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path}: is no state of an optimizer, or is damaged ({type(error).__name__}: {error})"
                             ) from None
    updater = trainer._updaters[0]
    if name != type(updater.optimizer).__name__:
        raise ModelFileError(f"{path}: is the state of {name}, the optimizer is {type(updater.optimizer).__name__}")
    updater.states.update(states)
    updater.states_synced.update(dict.fromkeys(states, True))
    for key in _collections(updater.optimizer):
        setattr(updater.optimizer, key, kept.get(key, {}))
    _count(updater.optimizer, numbers, updates)


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
