# SPDX-License-Identifier: MIT
"""Activations and paddings move into the layers that can do them as well."""

from dataclasses import replace

from deploy.ir import Activation, Convolution, Deconvolution, InnerProduct, Padding, Pooling
from deploy.lower.draft import Draft

# what engines apply to a layer's sums before they leave the registers
FUSED_KINDS = ("relu", "leaky_relu", "clip", "sigmoid", "hard_swish")


def fuse_activations(draft: Draft):
    """An activation that alone reads a layer's output becomes part of the layer."""
    for node in draft.nodes(Activation):
        host = draft.writer(node.inputs[0])
        if (isinstance(host, (Convolution, Deconvolution, InnerProduct)) and host.activation is None
                and node.function.kind in FUSED_KINDS and draft.only_reader(node.inputs[0]) is not None):
            draft.put(replace(host, activation=node.function))
            draft.bypass(node)


def fuse_paddings(draft: Draft):
    """A padding whose readers can all pad by themselves vanishes."""
    for node in draft.nodes(Padding):
        readers = draft.readers(node.outputs[0])
        if node.outputs[0] in draft.outputs or not all(_can_pad(reader, node) for reader in readers):
            continue
        for reader in readers:
            pads = tuple(mine + its for mine, its in zip(reader.pads, node.pads))
            counted = {"count_padding": reader.kind == "avg"} if isinstance(reader, Pooling) else {}
            draft.put(replace(reader, pads=pads, **counted))
        draft.bypass(node)


def _can_pad(reader, padding: Padding) -> bool:
    if any(padding.channels):
        return False
    zeros = padding.mode == "constant" and padding.value == 0
    if isinstance(reader, Convolution):
        return zeros and reader.pad_value == 0
    if not isinstance(reader, Pooling) or reader.global_:
        return False
    if any(pad >= size for pad, size in zip(padding.pads, reader.kernel * 2)):
        return False
    if reader.kind == "avg":
        return zeros and (reader.count_padding or not any(reader.pads))
    # a window that reaches a repeated edge holds the edge itself: padding that never wins gives the same maximum
    return padding.mode == "edge" and not any(reader.pads)
