# SPDX-License-Identifier: MIT
"""ncnn's int8 Winograd step by step, in the integer types it computes in; slow."""

import numpy as np

TILE = {"F23": 2, "F43": 4}
INPUT = {"F23": [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]],
         "F43": [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
                 [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]}
KERNEL = {"F23": [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]],
          "F43": [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 6]]}
# the kernel's last row of F(4,3) is 6 where 24 times the published one is 24: the output's last column makes up for it
OUTPUT = {"F23": [[1, 1, 1, 0], [0, 1, -1, 1]],
          "F43": [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 4]]}
FACTOR = {"F23": 4, "F43": 576}
SIMD = 4


def both_sides(matrix, values, dtype):
    """M v M^T of (..., k, k), wrapping as `dtype` does."""
    matrix = np.array(matrix, dtype)
    with np.errstate(over="ignore"):
        rows = np.zeros(values.shape[:-2] + (len(matrix), values.shape[-1]), dtype)
        for i in range(len(matrix)):
            for k in range(matrix.shape[1]):
                rows[..., i, :] += matrix[i, k] * values[..., k, :].astype(dtype)
        result = np.zeros(rows.shape[:-1] + (len(matrix),), dtype)
        for j in range(len(matrix)):
            for k in range(matrix.shape[1]):
                result[..., j] += rows[..., k] * matrix[j, k]
    return result


def winograd_sums(codes, weight_q, variant):
    """Sums (n, outputs, oh, ow) of padded int8 codes (n, c, h, w) with weights (outputs, c, 3, 3)."""
    m = TILE[variant]
    n, channels, height, width = codes.shape
    rows, columns = -(-(height - 2) // m), -(-(width - 2) // m)
    padded = np.zeros((n, channels, rows * m + 2, columns * m + 2), np.int16)
    padded[:, :, :height, :width] = codes
    kernels = both_sides(KERNEL[variant], weight_q.astype(np.int16), np.int16).astype(np.int32)
    y = np.zeros((n, len(weight_q), rows * m, columns * m), np.int32)
    for i in range(rows):
        for j in range(columns):
            tile = both_sides(INPUT[variant], padded[:, :, i * m:i * m + m + 2, j * m:j * m + m + 2], np.int16)
            total = np.zeros((n, len(weight_q)) + tile.shape[2:], np.int32)
            with np.errstate(over="ignore"):
                for c in range(channels):
                    total += tile[:, None, c].astype(np.int32) * kernels[None, :, c]
            y[:, :, i * m:i * m + m, j * m:j * m + m] = both_sides(OUTPUT[variant], total, np.int32)
    return divided(y[:, :, :height - 2, :width - 2], variant)


def divided(y, variant):
    """The scaled sums divided as the code for SIMD, or for what channels are left over, does it."""
    if variant == "F23":
        return y >> 2
    whole = y.shape[1] // SIMD * SIMD
    quick = np.trunc(y[:, :whole].astype(np.float32) * np.float32(1 / 576)).astype(np.int64)
    left = y[:, whole:].astype(np.int64)
    return np.concatenate([quick, np.sign(left) * (np.abs(left) // 576)], axis=1)
