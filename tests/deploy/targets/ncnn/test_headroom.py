# SPDX-License-Identifier: MIT
"""Which layers could overflow in ncnn's int8 Winograd, and which cure is better."""

import numpy as np
import pytest

from deploy import ir
from deploy.engine import run
from deploy.targets.ncnn.constraints import WINOGRAD_EXACT, WINOGRAD_LIMIT
from deploy.targets.ncnn.headroom import BARE, DIRECT, FEW, HeadroomReport, LayerHeadroom, headroom, with_levels
from deploy.targets.ncnn.winograd import WinogradArithmetic
from quantize.errors import DataError, DeployError

SHAPE = (64, 4, 4)
ONES = np.ones((3,) + SHAPE, np.float32)


def network(weight, kernel=3):
    """A convolution by `weight`, one number for each output, and a mean over the plane: two scores."""
    weight = np.broadcast_to(np.float32(weight).reshape(-1, 1, 1, 1), (len(weight), SHAPE[0], kernel, kernel)).copy()
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(127)
    codes = np.rint(weight / scale.reshape(-1, 1, 1, 1)).astype(np.int8)
    pads = (kernel // 2,) * 4
    nodes = []
    for quantized in (True, False):
        conv = ir.Convolution("conv", ("data",), ("conv",), path="features.0", weight=weight, pads=pads,
                              quantization=ir.Quantization(ir.Grid(float(np.float32(1 / 127))), codes, scale)
                              if quantized else None)
        pool = ir.Pooling("pool", ("conv",), ("pool",), kind="avg", global_=True)
        nodes.append((conv, pool))
    shapes = {"data": SHAPE, "conv": (len(weight),) + SHAPE[1:], "pool": (len(weight), 1, 1)}
    return tuple(ir.Model(("data",), ("pool",), each, shapes) for each in nodes)


def test_a_network_that_overflows():
    """Two outputs, the first larger: with all products near the largest its sums wrap round."""
    quantized, floating = network([1.0, 0.5])
    found = headroom(quantized, floating, [(ONES, np.zeros(3)), (0.3 * ONES, np.zeros(3))])
    assert found.images == 6
    assert found.correct == {DIRECT: 6, BARE: 3, FEW: 6}
    assert found.cure == DIRECT
    (many,), (few,) = found.layers[127], found.layers[31]
    assert many.bound == many.largest == 64 * 9 * 127 * 127 > WINOGRAD_LIMIT
    assert many.sums == 6 * 2 * 16 and many.verdict == "overflows"
    # in the middle of the plane 576 products, at an edge 384, in a corner 256; 38 is 0.3 in steps of the input
    beyond = {limit: sum(n * (terms * code * 127 > limit) for terms, n in ((576, 4), (384, 8), (256, 4))
                         for code in (127, 38)) * 3 * 2 for limit in (WINOGRAD_EXACT, WINOGRAD_LIMIT)}
    assert (many.inexact, many.overflowing) == (beyond[WINOGRAD_EXACT], beyond[WINOGRAD_LIMIT])
    assert few.largest == 64 * 9 * 31 * 127 and few.inexact == beyond_31() and few.verdict == "off by one"


def beyond_31():
    return sum(n * (terms * 127 * 31 > WINOGRAD_EXACT) for terms, n in ((576, 4), (384, 8), (256, 4))) * 3 * 2


def test_what_the_engine_gives_is_counted():
    quantized, floating = network([1.0, 0.5])
    scores = run(with_levels(quantized, floating, 127), ONES, arithmetic=WinogradArithmetic(everywhere=True)).outputs[0]
    wrong = (scores.reshape(3, 2).argmax(axis=1) != 0).sum()
    assert headroom(quantized, floating, [(ONES, np.zeros(3))]).correct[BARE] == 3 - wrong


def test_small_sums_never_overflow():
    quantized, floating = network([1.0, 0.5])
    small = 0.01 * ONES
    found = headroom(quantized, floating, [(small, np.zeros(3))])
    assert [layer.verdict for layers in found.layers.values() for layer in layers] == ["not here", "not here"]
    assert found.correct == {DIRECT: 3, BARE: 3, FEW: 3}


@pytest.mark.parametrize("correct, few, cure", [(5, "never", FEW), (4, "never", DIRECT), (5, "off by one", DIRECT),
                                                (5, "overflows", DIRECT), (3, "never", DIRECT)])
def test_the_better_cure(correct, few, cure):
    layer = LayerHeadroom("conv", WINOGRAD_EXACT, inexact=int(few != "never"), overflowing=int(few == "overflows"))
    assert layer.verdict == few
    assert HeadroomReport(5, {127: [], 31: [layer]}, {DIRECT: 4, BARE: 5, FEW: correct}).cure == cure


@pytest.mark.parametrize("levels", [31, 127])
def test_levels_of_the_weights(levels):
    quantized, floating = network([1.0, -0.5])
    node = with_levels(quantized, floating, levels).nodes[0]
    assert node.quantization.weight_qmax == levels
    np.testing.assert_array_equal(node.quantization.weight_q[:, 0, 0, 0], [levels, -levels])
    np.testing.assert_allclose(node.quantization.weight_scale, [1 / levels, 0.5 / levels], rtol=1e-6)
    assert node.quantization.input == quantized.nodes[0].quantization.input


def test_bad_input():
    with pytest.raises(DeployError, match="no quantized layer of this network has a shape"):
        headroom(*network([1.0, 0.5], kernel=1), [(ONES, np.zeros(3))])
    with pytest.raises(DataError, match="no images"):
        headroom(*network([1.0, 0.5]), [])
