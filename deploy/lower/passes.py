# SPDX-License-Identifier: MIT
"""What is done to a draft once it is complete, in the order of `PASSES`.

Written-out activation functions are found and named; reshapes that are not needed go; paddings, per channel factors
(BatchNorm above all) and activations move into the layers that can do them as well.
"""

from dataclasses import fields, replace
from typing import Any, Callable, NamedTuple, Optional, Tuple

import numpy as np

from deploy.ir import (
    Activation,
    Affine,
    BatchNorm,
    Convolution,
    Crop,
    Deconvolution,
    Elementwise,
    Function,
    InnerProduct,
    Node,
    Padding,
    Pooling,
    Quantization,
    Reshape,
    ScalarOp,
    Slice,
    integers,
)
from deploy.ir.affine import factor_and_shift
from deploy.lower.draft import Draft
from deploy.lower.grids import drop_roundings
from deploy.lower.preprocessing import absorb_preprocessing

# what engines apply to a layer's sums before they leave the registers
FUSED_KINDS = ("relu", "leaky_relu", "clip", "sigmoid", "hard_swish")
# of a step, or of a product of steps: times any sum in int32 it is less than 2e-27, and its inverse is still a float32
VANISHING = 2.0 ** -120
HOSTS = (Convolution, Deconvolution, InnerProduct, Affine)


# ---- functions written out in several operators


class Gate(NamedTuple):
    """clip(x + offset, 0, height) of a blob `source`: `height` times a hard sigmoid (Howard, arXiv:1905.02244)."""

    source: str
    offset: float
    height: float

    def function(self, kind: str) -> Function:
        """`kind` hard_sigmoid or hard_swish of the source."""
        return Function(kind, (1 / self.height, self.offset / self.height))


def name_functions(draft: Draft) -> None:
    """Replace what ends a pattern by one Activation of the pattern's start; what nobody reads then is dropped later."""
    for node in draft.nodes(ScalarOp):
        _end_of_division(draft, node)
    for node in draft.nodes(Elementwise):
        _end_of_product(draft, node)


def _end_of_division(draft, node):
    """clip(x + b, 0, h) / h, and x * clip(x + b, 0, h) / h."""
    divisor = node.scalar if node.op == "div" else 1 / node.scalar if node.op == "mul" and node.scalar else None
    if divisor is None:
        return
    kind, gate = "hard_sigmoid", _gate(draft, node.inputs[0])
    if gate is None:
        kind, gate = "hard_swish", _gated(draft, draft.writer(node.inputs[0]))
    if gate is not None and abs(divisor / gate.height - 1) < 1e-6:
        draft.put(_activation(node, gate.source, gate.function(kind)))


def _gated(draft, product) -> Optional[Gate]:
    """The gate that `product` multiplies with the gate's own source."""
    if isinstance(product, Elementwise) and product.op == "mul" and len(product.inputs) == 2:
        for source, blob in (product.inputs, product.inputs[::-1]):
            gate = _gate(draft, blob)
            if gate is not None and gate.source == source:
                return gate
    return None


def _gate(draft, blob) -> Optional[Gate]:
    clip = draft.writer(blob)
    if not (isinstance(clip, Activation) and clip.function.kind == "clip" and clip.function.parameters[0] == 0):
        return None
    add = draft.writer(clip.inputs[0])
    if not (isinstance(add, ScalarOp) and add.op in ("add", "sub")):
        return None
    return Gate(add.inputs[0], add.scalar if add.op == "add" else -add.scalar, clip.function.parameters[1])


def _end_of_product(draft, node):
    """x * sigmoid(x) and x * hard_sigmoid(x)."""
    if node.op != "mul" or len(node.inputs) != 2:
        return
    kinds = {"sigmoid": "swish", "hard_sigmoid": "hard_swish"}
    for source, blob in (node.inputs, node.inputs[::-1]):
        gate = draft.writer(blob)
        if isinstance(gate, Activation) and gate.function.kind in kinds and gate.inputs[0] == source:
            draft.put(_activation(node, source, Function(kinds[gate.function.kind], gate.function.parameters)))
            return


def _activation(node: Node, source: str, function: Function) -> Activation:
    """An Activation of `source` with name, output and path of a node."""
    common = {field.name: getattr(node, field.name) for field in fields(Node)}
    return Activation(**dict(common, inputs=(source,)), function=function)


# ---- reshapes and paddings


def merge_reshapes(draft: Draft) -> None:
    """A reshape reads what the reshapes before it read, a fully connected layer flattens by itself."""
    for node in draft.nodes(Reshape, InnerProduct):
        source = node.inputs[0]
        while isinstance(draft.writer(source), Reshape):
            source = draft.writer(source).inputs[0]
        draft.put(replace(node, inputs=(source,)))
        if isinstance(node, Reshape) and draft.shapes[source] == node.shape:
            draft.bypass(node, source)


def fuse_paddings(draft: Draft) -> None:
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


def cut_what_is_read(draft: Draft) -> None:
    """Where nobody reads a part of a Slice, the others are cut out: in files a blob without readers is an output."""
    for node in draft.nodes(Slice):
        used = [draft.readers(blob) or blob in draft.outputs for blob in node.outputs]
        if not all(used):
            shape = draft.shapes[node.inputs[0]]
            ends = np.cumsum(node.sizes).tolist()
            draft.swap(node, [
                _part(node, blob, shape, (end - size, end))
                for blob, size, end, wanted in zip(node.outputs, node.sizes, ends, used) if wanted])


def _part(node, blob, shape, ends):
    begin, end = ([low if axis == node.axis else other for axis, other in enumerate(whole)]
                  for low, whole in zip(ends, ((0,) * len(shape), shape)))
    return Crop(blob, node.inputs, (blob,), node.path, begin=tuple(begin), end=tuple(end))


# ---- factors and shifts


def absorb(draft: Draft) -> None:
    """Fold every BatchNorm and Affine that alone reads a layer's output into that layer.

    w' = w * g and b' = b * g + h where the norm computes g * x + h with its own epsilon, in float64. A quantized layer
    keeps its codes (of the weight in front of the norm, as simulated) and its scales take up the factor; but not that
    of a function in somebody's forward, which could not step aside where the network simulates the engine.
    """
    for node in draft.nodes(BatchNorm, Affine):
        host = draft.writer(node.inputs[0])
        stays = integers(host) is not None and node.name not in draft.norm_layers
        if isinstance(host, HOSTS) and draft.only_reader(node.inputs[0]) is not None and not stays:
            draft.put(absorbed(host, *factor_and_shift(node)))
            draft.bypass(node)


def absorbed(host: Any, factor: np.ndarray, shift: np.ndarray) -> Any:
    """The layer with its output multiplied by `factor` (outputs,) and `shift` (outputs,) added."""
    if isinstance(host, Affine):
        before = 0.0 if host.shift is None else host.shift
        return replace(host, scale=_float(host.scale * factor), shift=_float(before * factor + shift))
    before = 0.0 if host.bias is None else host.bias
    host = replace(host, weight=_scaled(host, factor), bias=_float(before * factor + shift))
    quantization = integers(host)
    if quantization is not None:
        host = replace(host, quantization=scaled_quantization(quantization, factor))
    return host


def _scaled(host, factor):
    weight = host.weight.astype(np.float64)
    if isinstance(host, Deconvolution):  # (inputs, outputs / groups, kh, kw)
        grouped = weight.reshape((host.groups, -1) + weight.shape[1:])
        return _float(grouped * factor.reshape(host.groups, 1, -1, 1, 1)).reshape(weight.shape)
    return _float(weight * _first(factor, weight.ndim))


def scaled_quantization(quantization: Quantization, factor: np.ndarray) -> Quantization:
    """The same codes where the factor is positive, opposite ones where it is negative; scales times its magnitude.

    A factor of 0 gives codes 0 with scale 1, since no scale may be 0. Scales stay float64 until `round_scales`, so that
    a factor and its inverse cancel.
    """
    codes = quantization.weight_q * _first(np.sign(factor).astype(np.int8), quantization.weight_q.ndim)
    scale = np.where(factor == 0, 1.0, quantization.weight_scale * np.abs(factor))
    return replace(quantization, weight_q=codes, weight_scale=scale)


def without_factor(quantization: Quantization, factor: np.ndarray) -> Quantization:
    """What `scaled_quantization` by the factor turns back; for weights quantized with their BatchNorm folded in."""
    return scaled_quantization(quantization, np.divide(1.0, factor, out=np.zeros_like(factor), where=factor != 0))


def round_scales(draft: Draft) -> None:
    """Weight scales become float32; a channel whose steps vanish there, or nearly, gets codes 0 with scale 1.

    Weight decay leaves channels of subnormal weights. They count as zeros: whatever their codes, they could not reach
    a float32 sum's last bit, and engines that hold inverses of steps cannot hold theirs.
    """
    for node in draft.nodes(Convolution, InnerProduct):
        if node.quantization is not None:
            grid, scale = node.quantization.input, _float(node.quantization.weight_scale)
            if grid.scale < VANISHING:
                grid = replace(grid, scale=1.0)
            alive = (scale >= VANISHING) & (scale.astype(np.float64) * grid.scale >= VANISHING)
            codes = node.quantization.weight_q * _first(alive.astype(np.int8), node.weight.ndim)
            scale = np.where(alive, scale, np.float32(1))
            draft.put(replace(node, quantization=replace(node.quantization, input=grid, weight_q=codes,
                                                         weight_scale=scale)))


def _first(values, ndim):
    """(n,) that broadcasts along the first of `ndim` axes."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


def _float(values) -> np.ndarray:
    return np.asarray(values, np.float32)


# ---- activations


def fuse_activations(draft: Draft) -> None:
    """An activation that alone reads a layer's output becomes part of the layer."""
    for node in draft.nodes(Activation):
        host = draft.writer(node.inputs[0])
        if (isinstance(host, (Convolution, Deconvolution, InnerProduct)) and host.activation is None
                and node.function.kind in FUSED_KINDS and draft.only_reader(node.inputs[0]) is not None
                and not _is_of_its_reader(draft, node)):
            draft.put(replace(host, activation=node.function))
            draft.bypass(node)


def _is_of_its_reader(draft, node) -> bool:
    """Whether an activation is the clip that a layer's narrow grid wants in front of it."""
    return bool(node.path) and any(reader.path == node.path for reader in draft.readers(node.outputs[0]))


# functions are found before anything moves away from them; paddings join layers while these are still next to them;
# norms are absorbed before activations, which would stand between; scales are rounded once no factor can follow
PASSES: Tuple[Callable[[Draft], None], ...] = (name_functions, merge_reshapes, fuse_paddings, absorb,
                                               absorb_preprocessing, fuse_activations, drop_roundings, round_scales,
                                               cut_what_is_read)
MERGING_NORMS = (absorb, absorb_preprocessing)
