# SPDX-License-Identifier: MIT
"""A network's own preprocessing, (x - mean) / std in front of its first layer, becomes part of that layer."""

from dataclasses import replace
from typing import Any, List, Optional

import numpy as np

from deploy.ir import Affine, Convolution, InnerProduct, ScalarOp
from deploy.ir.affine import NUMBERS, factor_and_shift
from deploy.lower.draft import Draft


def absorb_preprocessing(draft: Draft) -> None:
    """The first layer reads the network's input as it is, its weight and bias take up g * x + h per channel.

    Only where that computes the same: not where the layer rounds its input to codes, for which g * x + h are other
    numbers; not where it pads with zeros that h would have to become before (without h, zeros stay zeros). There the
    preprocessing stays a layer of its own.
    """
    for node in draft.nodes(Convolution, InnerProduct):
        if node.quantization is None:
            steps = _steps(draft, node.inputs[0])
            if steps:
                factor, shift = _composed(steps, draft.shapes[steps[0].inputs[0]][0])
                if not (getattr(node, "pads", None) and any(node.pads) and shift.any()):
                    draft.put(replace(_absorbed(node, factor, shift), inputs=steps[0].inputs))


def _steps(draft, blob) -> List[Any]:
    """What computes a blob from the network's input, in order; nothing where that is not per channel, or read twice."""
    steps: List[Any] = []
    while blob not in draft.inputs:
        step = draft.writer(blob)
        if not _is_step(step) or draft.only_reader(blob) is None:
            return []
        steps.insert(0, step)
        blob = step.inputs[0]
    return steps


def _is_step(node: Optional[Any]) -> bool:
    if isinstance(node, ScalarOp):
        return node.op in NUMBERS and not (node.op == "div" and node.scalar == 0)
    return isinstance(node, Affine)  # a BatchNorm was trained as a layer, and is shown as one


def _composed(steps, channels):
    factor, shift = np.ones(channels), np.zeros(channels)
    for step in steps:
        times, plus = factor_and_shift(step)
        factor, shift = factor * times, shift * times + plus
    return factor, shift


def _absorbed(node, factor, shift):
    weight = node.weight.astype(np.float64)
    if isinstance(node, InnerProduct):
        parts = weight.reshape(len(weight), 1, len(factor), -1)
        by_group = factor.reshape(1, -1, 1), shift.reshape(1, -1, 1)
    else:
        parts = weight.reshape((node.groups, -1) + weight.shape[1:2] + (weight[0, 0].size,))
        by_group = factor.reshape(node.groups, 1, -1, 1), shift.reshape(node.groups, 1, -1, 1)
    bias = (parts * by_group[1]).sum(axis=(-1, -2)).reshape(-1) + (0.0 if node.bias is None else node.bias)
    keep = node.bias is None and not shift.any()
    return replace(node, weight=(parts * by_group[0]).reshape(weight.shape).astype(np.float32),
                   bias=None if keep else bias.astype(np.float32))
