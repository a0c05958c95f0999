# SPDX-License-Identifier: MIT
"""Layers with weights: convolutions, fully connected layers, BatchNorm."""

import numpy as np

from deploy.ir import (
    Activation,
    BatchNorm,
    Convolution,
    Crop,
    Deconvolution,
    Function,
    InnerProduct,
    Quantization,
    Spread,
)
from deploy.ir.transposed import as_convolution
from deploy.lower.call import Call
from deploy.lower.draft import Unsupported


def _bias(call: Call, absent: bool):
    """The bias (outputs,) where the layer has one."""
    return None if call.get("no_bias", absent) else call.constant(2)


def _windows(call: Call, weight: np.ndarray) -> dict:
    """Stride, dilation, pads and groups of a 2-D convolution."""
    if weight.ndim != 4:
        raise Unsupported(f"a {weight.ndim - 2}-D convolution (supported: 2-D)")
    call.only("layout", "NCHW")
    top, left = call.get("pad", (0, 0))
    return dict(stride=call.get("stride", (1, 1)), dilation=call.get("dilate", (1, 1)), pads=(top, left, top, left),
                groups=call.get("num_group", 1))


def _convolution(call: Call) -> str:
    weight = call.constant(1)
    windows, (blob, quantization) = _windows(call, weight), call.quantized(weight)
    return call.emit(Convolution, blob, weight=weight, bias=_bias(call, False), quantization=quantization, **windows)


def _deconvolution(call: Call) -> str:
    weight = call.constant(1)
    if call.get("target_shape", (0, 0)) != (0, 0):
        raise Unsupported("a transposed convolution with target_shape")
    if call.is_quantized:
        if not call.spreads:
            raise Unsupported("transposed convolutions have no integer form; exclude the layer from quantization")
        blob, quantization = call.quantized(weight)
        if quantization is not None:
            return _spread_convolution(call, weight, blob, quantization)
    return call.emit(Deconvolution, call.blob(), weight=weight, bias=_bias(call, True),
                     output_pads=call.get("adj", (0, 0)), **_windows(call, weight))


def _spread_convolution(call: Call, weight: np.ndarray, blob: str, quantization: Quantization) -> str:
    """A transposed convolution as zeros between the pixels and a convolution with the kernel turned round."""
    windows = _windows(call, weight)
    stride, groups, dilation = windows["stride"], windows["groups"], windows["dilation"]
    far = [gap * (taps - 1) - pad for gap, taps, pad in zip(dilation, weight.shape[2:], windows["pads"])]
    ends = far + [pad + more for pad, more in zip(far, call.get("adj", (0, 0)))]
    size = (call.in_shape()[0], *((length - 1) * step + 1 for length, step in zip(call.in_shape()[1:], stride)))
    if max(stride) > 1:
        blob = call.emit(Spread, blob, size, part="spread", steps=stride)
    if min(ends) < 0:  # pads that the kernel does not reach cut the input itself
        begin = (0, max(-ends[0], 0), max(-ends[1], 0))
        end = (size[0], size[1] + min(ends[2], 0), size[2] + min(ends[3], 0))
        blob = call.emit(Crop, blob, tuple(np.subtract(end, begin).tolist()), part="cut", begin=begin, end=end)
    top, left, bottom, right = (max(pad, 0) for pad in ends)
    return call.emit(Convolution, blob, weight=as_convolution(weight, groups), bias=_bias(call, True), groups=groups,
                     dilation=dilation, pads=(top, left, bottom, right), quantization=quantization)


def _fully_connected(call: Call) -> str:
    if not call.get("flatten", True) and len(call.in_shape()) > 1:
        raise Unsupported("a fully connected layer on every row of a tensor (flatten=False)")
    weight = call.constant(1)
    blob, quantization = call.quantized(weight)
    return call.emit(InnerProduct, blob, weight=weight, bias=_bias(call, False), quantization=quantization)


def _batch_norm(call: Call, part: str = "") -> str:
    if call.axis(call.get("axis", 1)) != 0:
        raise Unsupported(f"a BatchNorm along axis {call.attrs['axis']} (supported: 1)")
    gamma, beta, mean, variance = (call.constant(index) for index in range(1, 5))
    if call.get("fix_gamma", True):
        gamma = np.ones_like(gamma)
    return call.emit(BatchNorm, call.blob(), part=part, gamma=gamma, beta=beta, mean=mean, variance=variance,
                     epsilon=call.get("eps", 1e-3))


def _batch_norm_relu(call: Call) -> str:
    return call.emit(Activation, _batch_norm(call, "norm"), function=Function("relu"))


OPERATORS = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "FullyConnected": _fully_connected,
    "BatchNorm": _batch_norm,
    "_contrib_SyncBatchNorm": _batch_norm,
    "_contrib_BatchNormWithReLU": _batch_norm_relu,
}
