# SPDX-License-Identifier: MIT
"""How ncnn's aarch64 engine rounds, with packing layout on, one thread, no fp16, no bf16 and no Winograd.

The kernels go over a blob in vectors of four numbers, of which packed blobs (channels a multiple of 4) have whole ones
only, and over the rest one by one. NEON's `vmla` is two operations to the compiler, multiplication and addition, each
rounded; `vfma`, hand-written assembly and what the compiler makes of C round once. So it depends on the kernel, and
sometimes on the place in a plane, which numbers are rounded how often:

* sums of products of convolutions: acc * (1 / (m_input * m_weight)) + bias in one rounding; of fully connected layers
  in two; depthwise as on x86 (`arithmetic.fused`), but where channels are no multiple of 8 and there is no special
  kernel, the compiler divides: acc / (m_input * m_weight) + bias
* codes that a convolution with ReLU or leaky ReLU hands on itself: the scales are multiplied first, acc *
  (s * m_output) + bias * m_output in one rounding, and leaky ReLU's end at -128 instead of -127 where they are computed
  in vectors; those of others are the codes of the real numbers
* codes are rounded to nearest, halves away from zero, without x86's exception; what is no number becomes 0, infinities
  the largest codes
* batch norm and scale: two roundings, one in the rest of a plane; hard_sigmoid and hard_swish: one in whole groups of
  16 numbers, two in what is left of whole groups of four, one in the rest
* global averages of packed blobs are added up one after the other

Measured, wheel 1.0.20261020 on Cortex-A53, Cortex-A76 and QEMU's "max", which compute the same; the reasons are in
ncnn's src/layer/arm. With these options no sum depends on the processor; Winograd would be used by those without dot
product instructions only.
"""

from functools import partial
from typing import Any, Callable, Dict, Optional

import numpy as np
from numpy.typing import ArrayLike

from deploy import ir
from deploy.arithmetic import per_channel
from deploy.engine import operations
from deploy.engine.activation import FUNCTIONS as ACTIVATIONS
from deploy.engine.pooling import window_areas, window_sums
from deploy.targets.ncnn import kernels
from deploy.targets.ncnn.arithmetic import QMAX, fused, multiplier
from deploy.targets.ncnn.fma import fma
from deploy.targets.ncnn.handing_on import HandingOnArithmetic

LOWEST = -128
LANES = 4  # numbers of a vector, and channels of one element of a packed blob
BLOCK = 16  # numbers that hand-written loops take at a time
PACKED_CODES = 8  # channels of one element of a packed blob of codes


def packed(channels: int, lanes: int = LANES) -> bool:
    """Whether a blob with so many channels (rows, of two axes; numbers, of one) is packed."""
    return channels % lanes == 0


def places(shape: tuple, channels: Optional[int] = None) -> np.ndarray:
    """Where the numbers of a blob lie in the run of memory that a kernel goes over.

    Parameters
    ----------
    shape : tuple
        Without the batch axis.
    channels : int, optional
        That are packed together, where these are not all.

    Returns
    -------
    array of int64
        Of `shape`, of three axes or more with 1 channel: each has a run of its own, of `run_length` numbers. A packed
        element stands where its first number does.
    """
    if len(shape) == 1:
        return np.arange(shape[0])
    if len(shape) == 2:
        rows, columns = np.indices(shape)
        if packed(shape[0]):
            return rows // LANES * LANES * shape[1] + columns * LANES + rows % LANES
        return rows * shape[1] + columns
    size = int(np.prod(shape[1:]))
    step = LANES if packed(channels or shape[0]) else 1
    return (np.arange(size) * step).reshape((1,) + tuple(shape[1:]))


def run_length(shape: tuple, channels: Optional[int] = None) -> int:
    """Numbers that a kernel goes over in one run."""
    if len(shape) < 3:
        return int(np.prod(shape))
    return int(np.prod(shape[1:])) * (LANES if packed(channels or shape[0]) else 1)


# ---- functions


def hard_sigmoid(x: np.ndarray, alpha: float, beta: float, channels: Optional[int] = None) -> np.ndarray:
    """clip(alpha * x + beta, 0, 1) as a layer of its own computes it, (n, ...)."""
    return _by_place(x, channels, *(partial(gate, x, alpha, beta) for gate in (_once, _twice, _one_by_one)))


def hard_swish(x: np.ndarray, alpha: float, beta: float, channels: Optional[int] = None) -> np.ndarray:
    """x * clip(alpha * x + beta, 0, 1) as a layer of its own computes it, (n, ...)."""
    return x * hard_sigmoid(x, alpha, beta, channels)


def _by_place(x, channels, whole, four, rest):
    """What three functions give: in whole blocks, in what is left of whole vectors, and in the rest."""
    shape = x.shape[1:]
    length, place = run_length(shape, channels), places(shape, channels)
    y = whole()
    if length % BLOCK:
        y = np.where(place < length // BLOCK * BLOCK, y, four())
    if length % LANES:
        y = np.where(place < length // LANES * LANES, y, rest())
    return y


def _once(x, alpha, beta):
    return np.clip(_fma(x, alpha, beta), np.float32(0), np.float32(1))


def _twice(x, alpha, beta):
    return np.clip(x * alpha + beta, np.float32(0), np.float32(1))


def _one_by_one(x, alpha, beta):
    """C's version, which compares `x` with the ends of the ramp."""
    lower = -beta / alpha
    upper = np.float32(1) / alpha + lower
    y = np.where(x > upper, np.float32(1), _fma(x, alpha, beta))
    return np.where(x < lower, np.float32(0), y)


def _fma(x, scale, shift):
    if x.ndim == 1:
        return fma(x[:, None], scale, shift)[:, 0]
    return fma(x, scale, shift)


FUNCTIONS: Dict[str, Callable[..., np.ndarray]] = {"hard_sigmoid": hard_sigmoid, "hard_swish": hard_swish}


# ---- float layers


def _scaled(x, scale, shift):
    """x * scale + shift of a layer that goes over planes in vectors; one axis that is not packed is left to C."""
    shape = x.shape[1:]
    if len(shape) == 1 and not packed(shape[0]):
        return fma(x, scale, shift)
    twice = x * per_channel(scale, x.ndim) + per_channel(shift, x.ndim)
    length = shape[1] if len(shape) == 2 else run_length(shape)
    if packed(shape[0]) or length % LANES == 0:
        return twice
    place = np.arange(length) if len(shape) == 2 else places(shape)
    return np.where(place < length // LANES * LANES, twice, fma(x, scale, shift))


def _batch_norm(node, inputs, arithmetic):
    # the compiler divides once, by the square root, for scale and shift
    inverse = np.float32(1) / np.sqrt(node.variance + np.float32(node.epsilon))
    shift = fma((node.gamma * node.mean)[None], -inverse, node.beta)[0]
    return _scaled(inputs[0], node.gamma * inverse, shift)


def _affine(node, inputs, arithmetic):
    x = inputs[0]
    if node.shift is None:
        return operations.OPERATIONS[ir.Affine](node, inputs, arithmetic)
    if x.ndim == 3 and not packed(x.shape[1]):
        return fma(x, node.scale, node.shift)
    return _scaled(x, node.scale, node.shift)


def _pooling(node, inputs, arithmetic):
    x = inputs[0]
    if node.kind != "avg":
        return operations.OPERATIONS[ir.Pooling](node, inputs, arithmetic)
    if node.global_:
        return _plane_sums(x) * (np.float32(1) / np.float32(x.shape[2] * x.shape[3]))
    if packed(x.shape[1]):
        return window_sums(x, node) * (np.float32(1) / window_areas(node, x.shape))
    return kernels.OPERATIONS[ir.Pooling](node, inputs, arithmetic)


def _plane_sums(x):
    """Sums (n, c, 1, 1) of planes: one after the other in packed blobs, else four running sums and then the rest."""
    flat = x.reshape(x.shape[:2] + (-1,))
    step = 1 if packed(x.shape[1]) else LANES
    whole = flat.shape[2] // step * step
    lanes = np.zeros(x.shape[:2] + (step,), np.float32)
    for start in range(0, whole, step):
        lanes += flat[:, :, start:start + step]
    total: np.ndarray = lanes[:, :, 0]
    if step > 1:
        total = (lanes[:, :, 0] + lanes[:, :, 1]) + (lanes[:, :, 2] + lanes[:, :, 3])
    for i in range(whole, flat.shape[2]):
        total = total + flat[:, :, i]
    return total.reshape(total.shape + (1, 1))


OPERATIONS: Dict[type, Callable] = {**kernels.OPERATIONS, ir.BatchNorm: _batch_norm, ir.Affine: _affine,
                                    ir.Pooling: _pooling}


# ---- quantized layers


class Aarch64Arithmetic(HandingOnArithmetic):
    """ncnn's arithmetic on aarch64; see the module."""

    name = "ncnn aarch64"
    operations = OPERATIONS
    functions = FUNCTIONS

    def function(self, kind: str, node: Any) -> Optional[Callable[..., np.ndarray]]:
        """ncnn's version of an activation function within a node."""
        if getattr(node, "name", None) in self.handed_on:
            return lambda x, *_: x  # `dequantize` has applied it
        if kind == "hard_swish" and node is not None and ir.integers(node) is not None:
            return _hard_swish_within(node)
        return super().function(kind, node)

    def quantize(self, x: ArrayLike, grid: ir.Grid) -> np.ndarray:
        """Codes (int32) of a float32 array on a `Grid`, of which ncnn knows the scale only."""
        x = np.asarray(x)
        if x.dtype == np.int8:  # codes that were handed on
            return x.astype(np.int32)
        with np.errstate(over="ignore"):  # what becomes infinite has the largest code
            return nearest_codes(x.astype(np.float32) * multiplier(grid.scale))

    def dequantize(self, accumulator: np.ndarray, node: ir.QuantizedNode) -> np.ndarray:
        """Real output (float32), before the activation, of a layer's integer sums (batch, outputs, ...).

        Of a layer that hands on codes these (int8), the activation included.
        """
        sums = accumulator.astype(np.float32)
        if node.name not in self.handed_on:
            return _reals(sums, node)
        return _handed_on(sums, node, multiplier(self.handed_on[node.name].scale)).astype(np.int8)


def nearest_codes(scaled: np.ndarray, lowest: int = -QMAX) -> np.ndarray:
    """int32 up to 127 of float32: nearest, halves away from zero; 0 for what is no number."""
    scaled = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=QMAX, neginf=lowest), lowest, QMAX)
    whole = np.trunc(scaled)
    return (whole + np.copysign(np.abs(scaled - whole) >= 0.5, scaled)).astype(np.int32)


def _factor(node):
    """m_input * m_weight, (outputs,)."""
    return multiplier(node.quantization.input.scale) * multiplier(node.quantization.weight_scale)


def _plain_depthwise(node):
    """Whether a depthwise layer is computed in C, one number after the other."""
    return isinstance(node, ir.Convolution) and node.depthwise and not packed(node.groups, PACKED_CODES)


def _reals(sums, node):
    if _plain_depthwise(node) and not fused(node):
        y = sums / per_channel(_factor(node), sums.ndim)
    else:
        scale = np.float32(1) / _factor(node)
        if node.bias is not None and fused(node):
            return fma(sums, scale, node.bias)
        y = sums * per_channel(scale, sums.ndim)
    return y if node.bias is None else y + per_channel(node.bias, sums.ndim)


def _handed_on(sums, node, factor):
    """Codes that a convolution writes itself; `factor` is the multiplier of its reader."""
    kind = None if node.activation is None else node.activation.kind
    if kind in ("relu", "leaky_relu") and fused(node):
        scale = np.float32(1) / _factor(node) * factor
        scaled = (sums * per_channel(scale, sums.ndim) if node.bias is None
                  else fma(sums, scale, node.bias * factor))
        if kind == "relu":
            return np.maximum(nearest_codes(scaled), 0)
        slope = np.float32(node.activation.parameters[0])
        if slope > 0:
            codes = np.maximum(nearest_codes(scaled, LOWEST), nearest_codes(scaled * slope, LOWEST))
            return np.where(_in_vectors(sums.shape[2:], node), codes, np.maximum(codes, -QMAX))
    return nearest_codes(_activated(_reals(sums, node), node) * factor)


def _activated(x, node):
    """The activation of a convolution that writes codes."""
    function = node.activation
    if function is None:
        return x
    values = [np.float32(value) for value in function.parameters]
    if function.kind == "hard_swish":
        return x * _twice_then_one_by_one(x, node, *values)
    return ACTIVATIONS[function.kind](x, *values)


def _twice_then_one_by_one(x, node, alpha, beta):
    """The gate within the conversion to codes: vectors in two roundings, the rest of a plane one by one."""
    return np.where(_in_vectors(x.shape[2:], node), _twice(x, alpha, beta), _one_by_one(x, alpha, beta))


def _in_vectors(plane, node):
    """Where a convolution that writes codes computes them in vectors: everywhere in packed blobs."""
    size = int(np.prod(plane))
    if packed(len(node.weight) if node.depthwise else len(node.weight) // node.groups, PACKED_CODES):
        return np.True_
    return np.arange(size).reshape(plane) < size // LANES * LANES


def _hard_swish_within(node):
    """hard_swish behind the sums of a quantized layer whose output is real."""
    if isinstance(node, ir.InnerProduct):
        gate = _twice if packed(len(node.weight), PACKED_CODES) else _one_by_one
    elif node.depthwise:
        gate = _one_by_one if _plain_depthwise(node) else _twice
    else:
        return partial(hard_swish, channels=len(node.weight) // node.groups)
    return lambda x, alpha, beta: x * gate(x, alpha, beta)
