# SPDX-License-Identifier: MIT
"""Gluon blocks that round where ncnn's x86 kernels do (packing off, one thread, no fp16)."""

from dataclasses import replace
from typing import Any, List, Optional, Tuple, Union

import numpy as np
from mxnet import nd
from mxnet.gluon import Block, HybridBlock, nn

from deploy import ir
from deploy.engine.integer import bound
from deploy.engine.pooling import cover, window_areas
from deploy.targets.ncnn.arithmetic import QMAX, multiplier
from deploy.targets.ncnn.processor import x86_here
from quantize.nn import MeanGlobalAvgPool2D
from quantize.ops import integer_codes, multiply_add

FLOAT32_EXACT = 2 ** 24


class Exact(HybridBlock):
    """A block that takes a layer's place; arrays become constants of its own."""

    def __init__(self, layer: Block, **arrays: np.ndarray):
        super().__init__(prefix=layer.prefix + "exact_")
        for name, array in arrays.items():
            constant = self.params.get_constant(name, nd.array(array, dtype="float32"))
            constant.initialize()
            setattr(self, name, constant)


class IntegerLayer(Exact):
    """A quantized convolution or fully connected layer on integer codes.

    Parameters
    ----------
    layer : QConv2D or QDense
    node : ir.Convolution or ir.InnerProduct
        What the layer was lowered to.
    run : int
        See `deploy.targets.ncnn.kernels.runs`.
    clip : (float, float) or None
        What the input is clipped to in front of the layer, where its grid has fewer codes than ncnn.

    Attributes
    ----------
    codes : list of array of int32, or None
        Where a list: the codes of each eager call are appended.
    """

    def __init__(self, layer: Block, node: Any, run: int, clip: Optional[Tuple[float, ...]] = None):
        parts = weight_parts(node)
        scale = 1 / (multiplier(node.quantization.input.scale) * multiplier(node.quantization.weight_scale))
        bias = np.zeros_like(scale) if node.bias is None else node.bias
        super().__init__(layer, multiplier=multiplier(node.quantization.input.scale).reshape(1), scale=scale,
                         bias=bias, **{f"part{i}": part for i, part in enumerate(parts)})
        self.act = layer.act
        self.codes: Optional[List[np.ndarray]] = None
        self._run, self._clip = run, clip
        self._fused = x86_here().fused(node)
        self._is_convolution = isinstance(node, ir.Convolution)
        self._options = _options(layer, len(scale))
        self._absorbed = absorbed_pads(node, layer) if self._is_convolution else (0, 0, 0, 0)

    def hybrid_forward(self, F: Any, x: Any, multiplier: Any, scale: Any, bias: Any, **parts: Any) -> Any:
        """The layer's real output."""
        x = self._unpadded(F, x)
        if self._clip is not None:
            x = F.clip(x, *self._clip)
        codes = integer_codes(F, x, multiplier, QMAX, self._run)
        if self.codes is not None:
            self.codes.append(codes.asnumpy().astype(np.int32))
        if any(self._absorbed):
            top, left, bottom, right = self._absorbed
            codes = F.pad(codes, mode="constant", pad_width=(0, 0, 0, 0, top, bottom, left, right))
        sums = self._sums(F, codes, [parts[name] for name in sorted(parts)])
        if self._fused:
            y = multiply_add(F, sums, scale, bias)
        else:
            shape = (1, -1, 1, 1) if self._is_convolution else (1, -1)
            y = F.broadcast_add(F.broadcast_mul(sums, F.reshape(scale, shape=shape)), F.reshape(bias, shape=shape))
        return y if self.act is None else self.act(y)

    def _unpadded(self, F, x):
        """`x` as it was in front of a padding that the engine's layer does itself, after rounding."""
        if not any(self._absorbed):
            return x
        top, left, bottom, right = self._absorbed
        return F.slice(x, begin=(None, None, top, left), end=(None, None, -bottom or None, -right or None))

    def _sums(self, F, codes, parts):
        layer = F.Convolution if self._is_convolution else F.FullyConnected
        sums = [layer(codes, part, no_bias=True, **self._options) for part in parts]
        if len(sums) == 1:
            return sums[0]
        return F.cast(F.add_n(*[F.cast(part, "float64") for part in sums]), "float32")


def _options(layer, outputs):
    """Options of the layer's operator."""
    if isinstance(layer, nn.Dense):
        return {"num_hidden": outputs, "flatten": layer._flatten}
    return {key: value for key, value in layer._kwargs.items() if key != "no_bias"}


def absorbed_pads(node: Union[ir.Convolution, ir.Pooling], layer: Block) -> Tuple[int, ...]:
    """(top, left, bottom, right) of a padding in front of a Gluon layer that lowering has put into the node."""
    return tuple(mine - own for mine, own in zip(node.pads, tuple(layer._kwargs["pad"]) * 2))


def weight_parts(node: ir.QuantizedNode) -> List[np.ndarray]:
    """Weight codes as float32 arrays that add up to them; no sum with one of them can reach 2^24."""
    weight_q = node.quantization.weight_q
    count = bound(node) // FLOAT32_EXACT + 1
    while True:
        columns = np.array_split(np.arange(weight_q[0].size), count)
        parts = [np.zeros(weight_q.shape, np.float32) for _ in columns]
        for part, chosen in zip(parts, columns):
            part.reshape(len(part), -1)[:, chosen] = weight_q.reshape(len(weight_q), -1)[:, chosen]
        if all(np.abs(part).reshape(len(part), -1).sum(axis=1).max() * QMAX < FLOAT32_EXACT for part in parts):
            return parts
        count += 1


class PlaneAverage(Exact):
    """Global average pooling: four running sums, combined crosswise, then the rest of the plane one by one."""

    def __init__(self, layer: Block, shape: Tuple[int, ...]):
        super().__init__(layer)
        self._size = shape[1] * shape[2]

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """(n, channels, 1, 1)."""
        flat = F.reshape(x, shape=(0, 0, -1))
        whole = self._size // 4 * 4
        total = F.zeros_like(F.slice_axis(flat, axis=2, begin=0, end=1))
        if whole:
            lanes = F.reshape(F.slice_axis(flat, axis=2, begin=0, end=whole), shape=(0, 0, -1, 4))
            lanes = F.slice_axis(F.cumsum(lanes, axis=2), axis=2, begin=-1, end=None)
            pairs = [F.slice_axis(lanes, axis=3, begin=i, end=i + 1) for i in range(4)]
            total = F.reshape((pairs[0] + pairs[2]) + (pairs[1] + pairs[3]), shape=(0, 0, -1))
        for i in range(whole, self._size):
            total = total + F.slice_axis(flat, axis=2, begin=i, end=i + 1)
        return F.expand_dims(total * float(np.float32(1) / np.float32(self._size)), axis=3)


class WindowAverage(Exact):
    """Average pooling: windows summed row by row; divided, or multiplied by the reciprocal where padding is counted."""

    def __init__(self, layer: Block, node: Any, shape: Tuple[int, ...]):
        options = layer._kwargs
        pad = tuple(options["pad"])
        top, left, bottom, right = absorbed_pads(node, layer)
        shape = (shape[0], shape[1] + top + bottom, shape[2] + left + right)
        own = replace(node, pads=pad * 2)
        areas = window_areas(own, shape)
        self._multiplies = node.count_padding and any(node.pads)
        covered = cover(np.zeros((1, 1) + shape[1:], np.float32), own.pads, own, 0)
        super().__init__(layer, areas=1 / areas if self._multiplies else areas)
        self._beyond = [after - before - 2 * side for after, before, side in zip(covered.shape[2:], shape[1:], pad)]
        self._options = {"kernel": options["kernel"], "stride": options["stride"], "pad": pad}
        self._size = areas.shape[2:]
        self._elements = int(np.prod(options["kernel"]))

    def hybrid_forward(self, F: Any, x: Any, areas: Any) -> Any:
        """(n, channels, height, width)."""
        if any(self._beyond):
            x = F.pad(x, mode="constant", pad_width=(0, 0, 0, 0, 0, self._beyond[0], 0, self._beyond[1]))
        windows = F.reshape(F.im2col(x, **self._options), shape=(0, -4, -1, self._elements, -2))
        sums = F.slice_axis(F.cumsum(windows, axis=2), axis=2, begin=-1, end=None)
        sums = F.reshape(sums, shape=(0, 0, self._size[0], self._size[1]))
        return F.broadcast_mul(sums, areas) if self._multiplies else F.broadcast_div(sums, areas)


class ChannelAffine(Exact):
    """A BatchNorm that no layer absorbed, as ncnn prepares it: factor and term in float32, one rounding."""

    def __init__(self, layer: Block, node: Any):
        deviation = np.sqrt(node.variance + np.float32(node.epsilon))
        super().__init__(layer, factor=node.gamma / deviation, term=node.beta - node.gamma * node.mean / deviation)

    def hybrid_forward(self, F: Any, x: Any, factor: Any, term: Any) -> Any:
        """Shape of x."""
        return multiply_add(F, x, factor, term)


def average(layer: Block, node: ir.Pooling, shape: Tuple[int, ...]) -> Exact:
    """The block for an average pooling layer whose input has the shape (channels, height, width)."""
    if isinstance(layer, (nn.GlobalAvgPool2D, MeanGlobalAvgPool2D)):
        return PlaneAverage(layer, shape)
    return WindowAverage(layer, node, shape)
