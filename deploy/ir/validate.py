# SPDX-License-Identifier: MIT
"""Whether a model is one: what lowering must produce, and what a file may hold."""

from math import prod
from typing import Dict, List

import numpy as np

from deploy.ir.base import Function
from deploy.ir.fields import NODE_TYPES, misfits
from deploy.ir.model import Model
from deploy.ir.shapes import RULES, demand
from quantize.errors import DeployError

# parameters of each kind of activation function
FUNCTIONS = {"relu": 0, "leaky_relu": 1, "clip": 2, "sigmoid": 0, "tanh": 0, "hard_sigmoid": 2, "hard_swish": 2,
             "swish": 0, "softplus": 0, "gelu": 0, "elu": 1, "exp": 0, "abs": 0, "square": 0, "sqrt": 0}
SEVERAL_INPUTS = ("Elementwise", "Concat")
MAX_ELEMENTS = 2 ** 31


def validate(model: Model):
    """DeployError that lists every problem, if there is one."""
    found = problems(model)
    if found:
        raise DeployError("not a valid model:\n" + "\n".join(found))


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
        if not (isinstance(shape, tuple) and shape and all(isinstance(size, (int, np.integer)) and size > 0
                                                           for size in shape) and prod(shape) <= MAX_ELEMENTS):
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
    for field in ("function", "activation"):
        _check_function(getattr(node, field, None))
    shapes = RULES[type(node)](node, [model.shapes[name] for name in node.inputs])
    for name, shape in zip(node.outputs, shapes):
        demand(model.shapes[name] == shape, f"its output {name} has the shape {shape}, not {model.shapes[name]}")
    for name, value in vars(node).items():
        demand(not isinstance(value, np.ndarray) or value.dtype == np.float32, f"{name} is not an array of float32")
    if getattr(node, "quantization", None) is not None:
        _check_quantization(node.quantization, node.weight)


def _check_function(function: Function):
    if function is None:
        return
    demand(function.kind in FUNCTIONS, f"unknown activation function {function.kind!r}; known: "
                                       f"{', '.join(sorted(FUNCTIONS))}")
    demand(len(function.parameters) == FUNCTIONS[function.kind],
           f"{function.kind} has {len(function.parameters)} parameters, not {FUNCTIONS[function.kind]}")
    demand(function.kind != "clip" or function.parameters[0] <= function.parameters[-1],
           f"clip between {function.parameters}")


def _check_quantization(quantization, weight):
    grid, codes, scales = quantization.input, quantization.weight_q, quantization.weight_scale
    demand(np.float32(grid.scale) == grid.scale and grid.scale > 0,
           f"the scale of its input is {grid.scale!r}, which is no positive float32")
    demand(grid.qmin <= grid.zero_point <= grid.qmax and grid.qmin < grid.qmax and grid.qmax - grid.qmin < 2 ** 16,
           f"the codes of its input, from {grid.qmin} to {grid.qmax} with zero at {grid.zero_point}, are no grid")
    demand(codes.dtype == np.int8 and codes.shape == weight.shape,
           f"its weight codes are {codes.dtype} of shape {codes.shape}, not int8 of {weight.shape}")
    demand(0 < quantization.weight_qmax <= 127 and np.abs(codes.astype(int)).max() <= quantization.weight_qmax,
           f"its weight codes go beyond {quantization.weight_qmax} (127 at most)")
    demand(scales.dtype == np.float32 and scales.shape == weight.shape[:1] and (scales > 0).all(),
           f"its weight scales, {scales.dtype} of shape {scales.shape}, are not one positive float32 for each output")
