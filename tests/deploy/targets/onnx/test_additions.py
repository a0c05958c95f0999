# SPDX-License-Identifier: MIT
"""Sums of bytes as ONNX Runtime rounds them: all pairs of codes, for steps of any ratio."""

import numpy as np
import pytest

from deploy import engine, ir
from deploy.targets.onnx import writer
from deploy.targets.onnx.arithmetic import OrtArithmetic
from deploy.targets.onnx.runner import Options, Runner

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
CODES = np.stack(np.meshgrid(np.arange(256), np.arange(256))).astype(np.float32).reshape(2, 1, 1, 256, 256)


def model(scales, lows):
    grids = [ir.Grid(float(scale), 0, low, low + 255) for scale, low in zip(scales, lows)]
    nodes = [ir.Rounding(blob + ".r", (blob,), (blob + ".r",), grid=grid) for blob, grid in zip("abc", grids)]
    nodes.insert(2, ir.Elementwise("c", ("a.r", "b.r"), ("c",), op="add"))
    shapes = {blob + end: (1, 256, 256) for blob in "abc" for end in ("", ".r")}
    return ir.Model(("a", "b"), ("c.r",), tuple(nodes), shapes), grids


@pytest.mark.parametrize("seed", range(8))
def test_every_sum_of_two_codes(seed, tmp_path):
    """Sums next to the middle between two codes tell where the engine rounds once and where twice."""
    random = np.random.RandomState(seed)
    for index in range(8):
        made, grids = model(np.float32(np.exp(random.uniform(-5, -3, 3))), random.choice([0, -128], 3))
        pairs = {blob: (codes + grid.qmin) * np.float32(grid.scale) for blob, codes, grid in zip("ab", CODES, grids)}
        path, = writer.write(made, tmp_path, f"sum{index}")
        session = Runner(path, Options())
        found = session.run(pairs, session.outputs)["c.r"]
        wanted, = engine.run(made, pairs, arithmetic=OrtArithmetic()).outputs
        np.testing.assert_array_equal(found, wanted)
