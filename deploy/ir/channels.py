# SPDX-License-Identifier: MIT
"""A network for images in BGR from one for RGB (or the other way round), by reversing the first weights."""

import dataclasses
from typing import Any, Dict

from deploy import ir
from quantize.errors import DeployError


def reverse_channels(model: ir.Model) -> ir.Model:
    """The model that computes from images with reversed channels what `model` computes from images as they are.

    Per-channel operations on the input (a BatchNorm in front, a preprocessing) are reversed with it, down to the
    convolutions.

    Raises
    ------
    DeployError
        Where an input has other than 3 channels, or something else reads the image, with the node's structural path.
    """
    for name in model.inputs:
        if model.shapes[name][0] != 3:
            raise DeployError(f"input {name!r} has {model.shapes[name][0]} channels: only images of 3 can be RGB or "
                              "BGR")
    reversed_blobs = set(model.inputs)
    nodes = []
    for node in model.nodes:
        if reversed_blobs.intersection(node.inputs) and not isinstance(node, ir.Constant):
            node = _reverse(node, model, reversed_blobs)
        nodes.append(node)
    left = reversed_blobs.intersection(model.outputs)
    if left:
        raise DeployError(f"blob {sorted(left)[0]!r}: no convolution reads the image before it leaves the network, its "
                          "channels cannot be reversed")
    return dataclasses.replace(model, nodes=tuple(nodes))


def _reverse(node, model, reversed_blobs):
    """The node for a reversed input; its output is added to `reversed_blobs` where that is reversed as well."""
    if isinstance(node, ir.Convolution) and node.groups == 1 and len(model.shapes[node.inputs[0]]) == 3:
        changed: Dict[str, Any] = {"weight": node.weight[:, ::-1].copy()}
        if node.quantization is not None:
            weight_q = node.quantization.weight_q[:, ::-1].copy()
            changed["quantization"] = dataclasses.replace(node.quantization, weight_q=weight_q)
        return dataclasses.replace(node, **changed)
    per_channel = {ir.BatchNorm: ("gamma", "beta", "mean", "variance"), ir.Affine: ("scale", "shift"),
                   ir.PReLU: ("slope",), ir.Activation: (), ir.ScalarOp: (), ir.Rounding: ()}
    if type(node) not in per_channel:
        raise DeployError(f"{node.path or node.name}: reads the image, but is neither a convolution without groups nor "
                          "an operation on single channels: the order of the image's channels cannot be changed before "
                          "it; feed the order that the network was trained with")
    reversed_blobs.update(node.outputs)
    arrays = {name: getattr(node, name) for name in per_channel[type(node)]}
    return dataclasses.replace(node, **{name: array[::-1].copy() for name, array in arrays.items()
                                        if array is not None})
