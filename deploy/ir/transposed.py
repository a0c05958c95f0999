# SPDX-License-Identifier: MIT
"""Transposed convolutions as convolutions: zeros between the pixels, and the kernel turned round."""

from typing import Dict, List, Tuple

import numpy as np

from deploy.ir.model import Convolution, Crop, Deconvolution, Model, Node, Spread

Shapes = Dict[str, Tuple[int, ...]]


def as_convolution(weight: np.ndarray, groups: int) -> np.ndarray:
    """(Inputs, outputs / groups, kh, kw) of a transposed convolution -> (outputs, inputs / groups, kh, kw), turned."""
    parts = weight.reshape((groups, -1) + weight.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(parts.reshape((-1,) + parts.shape[2:])[:, :, ::-1, ::-1])


def convolved(node: Deconvolution, model: Model) -> Tuple[List[Node], Shapes]:
    """(The nodes that compute what a float transposed convolution does, shapes of the blobs between them)."""
    blob, nodes, shapes = node.inputs[0], [], {}
    channels, height, width = model.shapes[blob]
    size = ((height - 1) * node.stride[0] + 1, (width - 1) * node.stride[1] + 1)
    far = [gap * (taps - 1) for gap, taps in zip(node.dilation, node.weight.shape[2:])]
    ends = [reach - pad for reach, pad in zip(far + far, node.pads)]
    ends[2:] = [end + more for end, more in zip(ends[2:], node.output_pads)]

    def put(kind: type, part: str, shape: Tuple[int, ...], **attributes: object) -> None:
        nonlocal blob
        name = f"{node.name}:{part}"
        nodes.append(kind(name, (blob,), (name,), node.path, **attributes))
        shapes[name], blob = shape, name
    if max(node.stride) > 1:
        put(Spread, "spread", (channels, *size), steps=node.stride)
    if min(ends) < 0:  # pads that the kernel does not reach cut the input itself
        begin = (0, max(-ends[0], 0), max(-ends[1], 0))
        end = (channels, size[0] + min(ends[2], 0), size[1] + min(ends[3], 0))
        put(Crop, "cut", tuple(last - first for first, last in zip(begin, end)), begin=begin, end=end)
    top, left, bottom, right = (max(end, 0) for end in ends)
    weight = as_convolution(node.weight, node.groups)
    nodes.append(Convolution(node.name, (blob,), node.outputs, node.path, weight=weight, bias=node.bias,
                             dilation=node.dilation, pads=(top, left, bottom, right), groups=node.groups,
                             activation=node.activation))
    return nodes, shapes
