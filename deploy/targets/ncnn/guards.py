# SPDX-License-Identifier: MIT
"""Everything about a model that ncnn would compute wrongly or refuse, found before a file is written."""

from collections import Counter
from dataclasses import fields
from typing import Dict, Iterator, List

import numpy as np

from deploy.engine.integer import INT32_MAX, bound
from deploy.ir import Convolution, Model, Rounding, consumers, integers, quantized
from deploy.target import Problem
from deploy.targets.ncnn import constraints
from deploy.targets.ncnn.arithmetic import multiplier
from deploy.targets.ncnn.constraints import QMAX, WINOGRAD_EXACT, WINOGRAD_LIMIT, WINOGRAD_QMAX, by_winograd, of_node
from deploy.targets.ncnn.param import MAX_NAME

ROUNDED = ("its output is rounded to codes, and is read by what is no integer layer, or by one with other codes; ncnn "
           "rounds inputs of integer layers only. Leave this output float, or the inputs of all layers that read it")


def check(model: Model, winograd: bool = False) -> List[Problem]:
    """All problems of a model; `winograd` as in `constraints.config_list`."""
    problems = list(_names(model)) + list(_shared_blobs(model))
    for node in model.nodes:
        where = node.path or node.name
        problems += [Problem(where, text) for text in _not_finite(node)]
        if isinstance(node, Rounding):
            problems.append(Problem(where, ROUNDED))
        if integers(node) is not None:
            problems += [Problem(where, text) for text in _grids(node, winograd)]
            problems += _scales(node)
            problems += _sums(node, winograd)
    return problems


def headroom(model: Model) -> Dict[str, int]:
    """Node that computes in integers -> what its sums cannot exceed in magnitude, whatever the input."""
    return {node.name: bound(node) for node in quantized(model)}


def _names(model) -> Iterator[Problem]:
    layers = [(node.path or node.name, node.name) for node in model.nodes]
    for where, name in layers + [("blob", blob) for blob in model.shapes]:
        if not name or any(character.isspace() for character in name):
            yield Problem(where, f"the name {name!r} is empty or has a space in it; ncnn's files separate names by "
                                 "spaces. "
                          "Rename the layer")
        elif len(name.encode("utf-8")) > MAX_NAME:
            yield Problem(where, f"the name has {len(name.encode('utf-8'))} bytes, ncnn takes {MAX_NAME}. Rename the "
                                 "layer")
    for name, count in Counter(name for _, name in layers).items():
        if count > 1:
            yield Problem(name, f"{count} layers have this name")


def _shared_blobs(model) -> Iterator[Problem]:
    """ncnn quantizes a blob once, with the scale of its first reader."""
    for blob, readers in consumers(model).items():
        scales: Dict[float, str] = {}
        for node in readers:
            quantization = integers(node)
            if node is not None and quantization is not None:
                scales.setdefault(float(quantization.input.scale), node.path or node.name)
        if len(scales) > 1:
            steps = ", ".join(f"{where}: {scale:g}" for scale, where in scales.items())
            yield Problem(blob, f"layers that read this blob quantize it with different steps ({steps}); ncnn has one. "
                          "Calibrate them as one, or leave all but one float")


def _not_finite(node) -> Iterator[str]:
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            yield f"{int((~np.isfinite(value)).sum())} of {value.size} elements of {field.name} are no finite " \
                  "numbers. Was the network trained, or loaded, to the end?"


def _grids(node, winograd) -> Iterator[str]:
    quantization = node.quantization
    grid, weight_q = quantization.input, quantization.weight_q.astype(np.int64)
    if (grid.qmin, grid.qmax, grid.zero_point) != (-QMAX, QMAX, 0):
        yield f"its input has codes {grid.qmin} to {grid.qmax} with zero point {grid.zero_point}, " \
              f"ncnn has {-QMAX} to {QMAX} with 0. Convert with target='ncnn'"
    allowed = min(quantization.weight_qmax, QMAX)
    if weight_q.size and np.abs(weight_q).max() > allowed:
        yield f"weight codes reach {int(np.abs(weight_q).max())}, {allowed} is allowed"
    if not isinstance(node, Convolution):
        return
    geometry = of_node(node)
    if winograd and geometry.winograd and quantization.weight_qmax > WINOGRAD_QMAX:
        yield f"its weights have {quantization.weight_qmax} levels on each side, " \
              f"{WINOGRAD_QMAX} are allowed where ncnn may use Winograd. Convert with the same target, or " \
              "write it without winograd"
    if geometry.grouped and len(quantization.weight_scale) == len(weight_q):
        scales = quantization.weight_scale.reshape(geometry.groups, -1)
        if (scales != scales[:, :1]).any():
            yield "outputs of one group have different weight steps, ncnn has one for each group. Quantize its " \
                  "weight per group"


def _scales(node) -> Iterator[Problem]:
    where, step, steps = node.path or node.name, node.quantization.input.scale, node.quantization.weight_scale
    if steps.shape != node.quantization.weight_q.shape[:1]:
        yield Problem(where, f"there are {steps.size} weight steps for {len(node.quantization.weight_q)} outputs")
        return
    with np.errstate(all="ignore"):
        product = multiplier(step) * multiplier(steps)
        usable = np.isfinite(multiplier(step)) & np.isfinite(product) & (product > 0) & np.isfinite(1 / product)
    if not usable.all():
        yield Problem(where, f"the steps of input ({step:g}) and weight ({float(steps[~usable][0]):g}) of "
                             f"{int((~usable).sum())} outputs cannot be inverted in float32. "
                      "Dead channels get the step 1")
    dead = int((node.quantization.weight_q.reshape(len(steps), -1) == 0).all(axis=1).sum())
    if dead:
        yield Problem(where, f"{dead} of {len(steps)} outputs have only zero weights and compute their bias",
                      fatal=False)


def _sums(node, winograd) -> Iterator[Problem]:
    where, limit = node.path or node.name, bound(node)
    if limit > INT32_MAX:
        yield Problem(where, f"its sums can reach {limit}, int32 ends at {INT32_MAX}. Use fewer bits for its weights")
    if not isinstance(node, Convolution):
        return
    if of_node(node).grouped:
        yield Problem(where, constraints.GROUPS_ADVICE, fatal=False)
    if (by_winograd(node) or winograd and of_node(node).winograd) and limit > WINOGRAD_EXACT:
        harm = (f"overflows int32 beyond {WINOGRAD_LIMIT}" if limit > WINOGRAD_LIMIT
                else f"is one too small at times beyond {WINOGRAD_EXACT}")
        yield Problem(where, f"its sums can reach {limit}; ncnn's Winograd {harm}. Write it without winograd, or "
                      "verify on your data", fatal=False)
