# SPDX-License-Identifier: MIT
"""Winograd convolution in NumPy, one tile after the other, in float64: slow, and written from the definition."""

import numpy as np

from quantize import reference
from quantize.spec import PerChannel, PerTensor, QParams, QuantSpec
from quantize.winograd import transforms


def fake_quantized(values, spec):
    """`values` on the grid that just covers them."""
    values = np.asarray(values, np.float32)
    return reference.fake_quantize(values, reference.find_qparams(values, spec), spec)


def tiles_of(x, variant, pad):
    """(images, channels, rows, columns of tiles, n, n): B^T d B of the zero padded images."""
    outputs, _, inputs = transforms(variant)
    m, n = outputs.shape
    height, width = (size + 2 * before - 2 for size, before in zip(x.shape[2:], pad))
    rows, columns = -(-height // m), -(-width // m)
    padded = np.zeros(x.shape[:2] + (rows * m + 2, columns * m + 2))
    padded[:, :, pad[0]:pad[0] + x.shape[2], pad[1]:pad[1] + x.shape[3]] = x
    tiles = np.zeros(x.shape[:2] + (rows, columns, n, n))
    for i in range(rows):
        for j in range(columns):
            tile = padded[:, :, i * m:i * m + n, j * m:j * m + n]
            tiles[:, :, i, j] = inputs @ tile @ inputs.T
    return tiles


def winograd_convolution(spec, operands, scales):
    """Output; `operands` are images, weight, bias or None, pad, groups; `scales` of 8 bit images and of their tiles,
    (1,) or (positions,). Weights have the range they need."""
    x, weight, bias, pad, groups = operands
    outputs, kernels, _ = transforms(spec.variant)
    m = len(outputs)
    tiles = tiles_of(reference.fake_quantize(x, QParams.symmetric(scales[0]), QuantSpec()), spec.variant, pad)
    shape = tiles.shape
    step = np.asarray(scales[1]).reshape(shape[4:] if np.size(scales[1]) > 1 else (1, 1))
    tiles = np.clip(reference.round_half_away(tiles / step), -127, 127) * step
    u = np.einsum("ia,ocab,jb->oijc", kernels, weight.astype(np.float64), kernels)
    rows = {"layer": 1, "channel": len(u), "position": len(u) * len(kernels) ** 2}[spec.granularity]
    kind = PerTensor() if spec.granularity == "layer" else PerChannel(0)
    u = fake_quantized(u.reshape(rows, -1), QuantSpec(granularity=kind)).reshape(u.shape)
    height, width = (size + 2 * before - 2 for size, before in zip(x.shape[2:], pad))
    y = np.zeros((len(x), len(weight), shape[2] * m, shape[3] * m))
    inputs = weight.shape[1]
    for o in range(len(weight)):
        group = o // (len(weight) // groups)
        for c in range(inputs):
            products = tiles[:, group * inputs + c] * u[o, :, :, c]
            for i in range(shape[2]):
                for j in range(shape[3]):
                    y[:, o, i * m:i * m + m, j * m:j * m + m] += outputs @ products[:, i, j] @ outputs.T
    y = y[:, :, :height, :width]
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)
