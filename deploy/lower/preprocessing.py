# SPDX-License-Identifier: MIT
"""A network's own preprocessing, (x - mean) / std in front of its first layer, becomes part of that layer."""

from dataclasses import replace

import numpy as np

from deploy.ir import Convolution, InnerProduct
from deploy.ir.affine import composed, steps_before
from deploy.lower.draft import Draft


def absorb_preprocessing(draft: Draft) -> None:
    """The first layer reads the network's input as it is, its weight and bias take up g * x + h per channel.

    Only where that computes the same: not where the layer rounds its input to codes, for which g * x + h are other
    numbers; not where it pads with zeros that h would have to become before (without h, zeros stay zeros). There the
    preprocessing stays a layer of its own, which the programs of a target may compute with their image's
    (`deploy.image_steps.Prepared`).
    """
    for node in draft.nodes(Convolution, InnerProduct):
        if node.quantization is None:
            steps = steps_before(node.inputs[0], draft.inputs, draft.writer,
                                 lambda blob: draft.only_reader(blob) is not None)
            if steps:
                factor, shift = composed(steps, draft.shapes[steps[0].inputs[0]][0])
                if not (getattr(node, "pads", None) and any(node.pads) and shift.any()):
                    draft.put(replace(_absorbed(node, factor, shift), inputs=steps[0].inputs))


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
