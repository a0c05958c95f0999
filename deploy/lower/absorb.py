# SPDX-License-Identifier: MIT
"""Per channel factors and shifts (BatchNorm above all) move into the layer in front of them."""

from dataclasses import replace

import numpy as np

from deploy.ir import Affine, BatchNorm, Convolution, Deconvolution, InnerProduct, Quantization
from deploy.lower.draft import Draft

HOSTS = (Convolution, Deconvolution, InnerProduct, Affine)


def absorb(draft: Draft):
    """Fold every BatchNorm and Affine that alone reads a layer's output into that layer.

    w' = w * g and b' = b * g + h where the norm computes g * x + h with its own epsilon, in float64. A quantized layer
    keeps its codes (of the weight in front of the norm, as simulated) and its scales take up the factor.
    """
    for node in draft.nodes(BatchNorm, Affine):
        host = draft.writer(node.inputs[0])
        if isinstance(host, HOSTS) and draft.only_reader(node.inputs[0]) is not None:
            draft.put(absorbed(host, *_factor_and_shift(node)))
            draft.bypass(node)


def _factor_and_shift(node):
    """g and h of g * x + h, float64 (channels,)."""
    if isinstance(node, Affine):
        factor = node.scale.astype(np.float64)
        return factor, np.zeros_like(factor) if node.shift is None else node.shift.astype(np.float64)
    gamma, beta, mean, variance = (array.astype(np.float64) for array in (
        node.gamma, node.beta, node.mean, node.variance))
    factor = gamma / np.sqrt(variance + node.epsilon)
    return factor, beta - mean * factor


def absorbed(host, factor: np.ndarray, shift: np.ndarray):
    """The layer with its output multiplied by `factor` (outputs,) and `shift` (outputs,) added."""
    if isinstance(host, Affine):
        before = 0.0 if host.shift is None else host.shift
        return replace(host, scale=_float(host.scale * factor), shift=_float(before * factor + shift))
    before = 0.0 if host.bias is None else host.bias
    host = replace(host, weight=_scaled(host, factor), bias=_float(before * factor + shift))
    if getattr(host, "quantization", None) is not None:
        host = replace(host, quantization=scaled_quantization(host.quantization, factor))
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


def round_scales(draft: Draft):
    """Weight scales become float32; a channel whose scale vanishes there gets codes 0 with scale 1."""
    for node in draft.nodes(Convolution, InnerProduct):
        if node.quantization is not None:
            scale = _float(node.quantization.weight_scale)
            codes = node.quantization.weight_q * _first((scale > 0).astype(np.int8), node.weight.ndim)
            scale = np.where(scale > 0, scale, np.float32(1))
            draft.put(replace(node, quantization=replace(node.quantization, weight_q=codes, weight_scale=scale)))


def _first(values, ndim):
    """(n,) that broadcasts along the first of `ndim` axes."""
    return values.reshape((-1,) + (1,) * (ndim - 1))


def _float(values) -> np.ndarray:
    return np.asarray(values, np.float32)
