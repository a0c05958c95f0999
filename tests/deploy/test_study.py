# SPDX-License-Identifier: MIT
"""Costs and deviations of layers, against numbers counted by hand and against plain NumPy."""

import numpy as np
import pytest

from deploy import engine, ir
from deploy.ir import quantized
from deploy.ir.clips import reached, without_clips
from deploy.study import costs, decibels, in_float, sampled, study, weight_sqnr
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from tests.deploy.targets.ncnn import models

CHAIN = models.quantized_cases()["chain"]


def test_costs_by_hand():
    found = costs(CHAIN)
    # 16 filters of 3x3x3 on 10x9; 16 of 3x3 at stride 2 on 5x5; 9 of 16 on 5x5; 10 of 9
    assert {name: cost.macs for name, cost in found.items()} == {
        "c1": 16 * 27 * 90, "c2": 16 * 9 * 25, "c3": 9 * 16 * 25, "x": 90}
    assert found["c1"].parameters == 16 * 27 + 16 and found["c3"].parameters == 9 * 16
    assert found["c1"].float_bytes == 4 * 448 and found["c1"].bytes == 432 + 4 * (16 + 16 + 1)


def test_a_transposed_convolution_works_on_its_input():
    case = models.float_cases()["deconv"]
    weight = case.nodes[0].weight
    assert costs(case)["x"].macs == weight.size * 5 * 4 and costs(case)["x"].bytes == 4 * (weight.size + 3)


def test_in_float_nothing_is_quantized():
    assert quantized(in_float(CHAIN)) == [] and len(quantized(CHAIN)) == 4


def test_deviations_are_those_of_numpy():
    images = models.inputs(CHAIN, 3)["data"]
    arithmetic = NcnnArithmetic()
    found = study(CHAIN, arithmetic, images, compared=2)
    floats = engine.run(in_float(CHAIN), images[:2], keep=engine.ALL).blobs
    integers = engine.run(CHAIN, images[:2], arithmetic=arithmetic, keep=engine.ALL)
    for node in quantized(CHAIN):
        deviation, wanted = found.deviations[node.name], floats[node.outputs[0]].astype(np.float64)
        assert deviation.signal == pytest.approx((wanted ** 2).sum(), rel=1e-5)
        assert deviation.accumulated == pytest.approx(((integers.blobs[node.outputs[0]] - wanted) ** 2).sum(), rel=1e-4)
        assert deviation.largest_sum == integers.largest[node.name]
        counts, span = deviation.errors()
        assert counts.sum() == 2 * sampled(floats[node.outputs[0]][:1]).size
        assert span == pytest.approx(max(np.abs(part).max() for part in deviation.differences))
    np.testing.assert_array_equal(found.scores, integers.blobs["x"])
    assert len(found.float_scores) == 3 and found.seconds > 0 < found.float_seconds
    # the first layer has nothing before it: alone and with the others it computes the same
    assert found.deviations["c1"].alone == found.deviations["c1"].accumulated > 0
    assert found.deviations["x"].alone < found.deviations["x"].accumulated


def test_what_lies_beyond_the_grid_is_counted():
    node = quantized(CHAIN)[0]
    top = node.quantization.input.scale * 127
    images = np.full((1, *CHAIN.shapes["data"]), 2 * top, np.float32)
    images[0, 0] = 0
    deviation = study(CHAIN, NcnnArithmetic(), images, compared=1).deviations["c1"]
    assert (deviation.clipped, deviation.values) == (2 * 90, 3 * 90)


def test_see_gets_what_quantized_layers_read():
    seen = []
    images = models.inputs(CHAIN, 2)["data"]
    floats = engine.run(in_float(CHAIN), images, keep=engine.ALL).blobs

    def see(name, values):
        np.testing.assert_allclose(values, floats[name][sum(seen_name == name for seen_name in seen)][np.newaxis],
                                   rtol=1e-5, atol=1e-6)
        seen.append(name)
    study(CHAIN, NcnnArithmetic(), images, compared=0, see=see)
    assert sorted(seen) == sorted(2 * [node.inputs[0] for node in quantized(CHAIN)])


def test_decibels():
    assert decibels(100.0, 1.0) == 20 and decibels(1.0, 0.0) == float("inf") and decibels(0.0, 0.0) is None
    node = quantized(CHAIN)[0]
    exact = node.quantization.weight_q * node.quantization.weight_scale.reshape(-1, 1, 1, 1)
    noise = ((node.weight - exact) ** 2).sum()
    assert weight_sqnr(node) == pytest.approx(10 * np.log10((node.weight ** 2).sum() / noise), rel=1e-4)
    assert isinstance(node, ir.Convolution)


def narrow():
    """A layer whose input has the codes from 0 to 15, on an engine that has those from -127 to 127."""
    weight_q = np.random.RandomState(3).randint(-7, 8, (4, 6)).astype(np.int8)
    scale = np.full(4, 0.05, np.float32)
    layer = ir.InnerProduct("fc", ("x",), ("out",), path="fc", weight=weight_q * scale[:, np.newaxis],
                            quantization=ir.Quantization(ir.Grid(0.1, 0, -127, 127), weight_q, scale, 7))
    clip = ir.Activation("fc.clip", ("data",), ("x",), path="fc", function=ir.Function("clip", (0.0, 1.5)))
    return ir.Model(("data",), ("out",), (clip, layer), {"data": (6,), "x": (6,), "out": (4,)})


def test_what_a_layer_s_own_clip_cuts_off_counts_as_its_error():
    model = narrow()
    grid = reached(ir.producers(model), quantized(model)[0])
    assert (grid.qmin, grid.qmax, grid.scale) == (0, 15, 0.1)
    images = np.float32([[0.1, 0.2, 1.5, 1.0, 0.3, 0.0], [0.1, 0.2, 9.0, 1.0, 0.3, -2.0]])
    seen = []
    for image, clipped in zip(images, (0, 2)):
        found = study(model, NcnnArithmetic(), [image], 1, lambda name, values: seen.append(values.copy()))
        deviation = found.deviations["fc"]
        assert deviation.clipped == clipped and deviation.alone == pytest.approx(deviation.accumulated)
        wanted = ((model.nodes[1].weight @ (image.clip(0, 1.5) - image)) ** 2).sum()
        assert deviation.alone == pytest.approx(wanted, rel=1e-4, abs=1e-9)
    np.testing.assert_array_equal(np.concatenate(seen), images)  # as they come, not as they are cut off
    assert quantized(without_clips(model)) == quantized(model)
