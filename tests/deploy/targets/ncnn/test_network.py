# SPDX-License-Identifier: MIT
"""Models as ncnn networks: Splits, requantization, refusals; and what the wheel computes from them."""

import dataclasses

import numpy as np
import pytest

from deploy import engine, ir
from deploy.targets.ncnn import NcnnTarget, writer
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.network import integer_blobs, integer_grids, to_network, without_16_bits
from deploy.targets.ncnn.runner import DEFAULT, EXACT, Runner
from quantize.errors import DeployError
from tests.deploy.targets.ncnn import models
from tests.deploy.targets.ncnn.models import conv, dense, model, one

FLOAT, QUANTIZED = models.float_cases(), models.quantized_cases()
RELU = ir.Function("relu")


def largest_difference(case, found):
    """Of the outputs, relative to their largest value."""
    expected = engine.run(case, models.inputs(case)).outputs
    return max(np.abs(found[name] - values).max() / max(np.abs(values).max(), 1e-6)
               for name, values in zip(case.outputs, expected))


@pytest.mark.parametrize("name", FLOAT)
def test_float_networks_compute_the_same_in_the_wheel(ncnn, tmp_path, name):
    case = FLOAT[name]
    paths = writer.write(case, tmp_path, integers=False)
    for options, limit in ((EXACT, 1e-5), (DEFAULT, 2e-3)):  # by default weights of dense layers are float16
        found = Runner(*paths, options).run(models.inputs(case), case.outputs, case.shapes)
        assert largest_difference(case, found) < limit


def test_a_node_of_every_kind_was_tried():
    tried = {type(node) for case in FLOAT.values() for node in case.nodes}
    assert tried == {getattr(ir, name) for name in ir.__all__ if isinstance(getattr(ir, name), type)
                     and issubclass(getattr(ir, name), ir.Node)} - {ir.Node, ir.Rounding, ir.Spread}


@pytest.mark.parametrize("name", QUANTIZED)
def test_integer_networks_compute_bit_for_bit_the_same_in_the_wheel(ncnn, tmp_path, name):
    case = QUANTIZED[name]
    found = Runner(*writer.write(case, tmp_path), EXACT).run(models.inputs(case), case.shapes, case.shapes)
    judge = engine.run(case, models.inputs(case), arithmetic=NcnnArithmetic(), keep=engine.ALL, codes=True)
    codes = {node.inputs[0]: judge.codes[node.name] for node in ir.quantized(case)}
    integers = integer_blobs(to_network(case)[0])
    for blob, values in found.items():
        np.testing.assert_array_equal(values, codes[blob] if blob in integers else judge.blobs[blob], blob)


def test_pads_that_are_not_zero_are_quantized(ncnn, tmp_path):
    case = model((4, 6, 5), [conv("x", "data", (8, 4, 3, 3), largest=2, pads=(1, 1, 1, 1), pad_value=0.77)])
    found = Runner(*writer.write(case, tmp_path), EXACT).run(models.inputs(case), ["x"])["x"]
    np.testing.assert_array_equal(found, engine.run(case, models.inputs(case), arithmetic=NcnnArithmetic()).outputs[0])


def test_float_files_of_a_quantized_network_hold_its_float_weights(ncnn, tmp_path):
    case = QUANTIZED["chain"]
    plain = dataclasses.replace(case, nodes=tuple(
        dataclasses.replace(node, quantization=None) if hasattr(node, "quantization") else node for node in case.nodes))
    found = Runner(*writer.write(case, tmp_path, integers=False), EXACT).run(models.inputs(case), ["x"])
    assert largest_difference(plain, found) < 1e-5
    assert integer_blobs(to_network(case, integers=False)[0]) == {}


def lines(case, integers=True):
    """The layers without what they compute."""
    return [f"{layer.name}: {' '.join(layer.inputs)} -> {' '.join(layer.outputs)}"
            for layer in to_network(case, integers)[0].layers]


def test_blobs_with_several_readers_are_split():
    assert lines(QUANTIZED["fire"])[:6] == [
        "data:  -> data", "squeeze: data -> squeeze",
        "splitncnn_0: squeeze -> squeeze_splitncnn_0 squeeze_splitncnn_1",
        "e1: squeeze_splitncnn_0 -> e1", "e3: squeeze_splitncnn_1 -> e3", "cat: e1 e3 -> cat"]
    assert lines(FLOAT["square by mul"]) == ["data:  -> data",
                                             "splitncnn_0: data -> data_splitncnn_0 data_splitncnn_1",
                                             "x: data_splitncnn_0 data_splitncnn_1 -> x"]


def test_planes_that_were_pooled_are_flat_only_where_nobody_minds():
    assert lines(FLOAT["global, dense"]) == ["data:  -> data", "p: data -> p", "r: p -> r", "x: r -> x"]
    assert lines(FLOAT["squeeze and excite"])[2:5] == [
        "p: data_splitncnn_0 -> p_flat", "p_shape: p_flat -> p", "s: p -> s"]


def terms(case):
    """Layer -> int8_scale_term, and the output scales."""
    network, weights = to_network(case)
    found = {layer.name: layer.parameters[8] for layer in network.layers if 8 in layer.parameters}
    return found, {name: float(arrays["output_scale"]) for name, arrays in weights.items() if "output_scale" in arrays}


def multiplier(case, name):
    node = next(node for node in case.nodes if node.name == name)
    return float(np.float32(1) / np.float32(node.quantization.input.scale))


def test_integers_stay_between_convolutions():
    chain, fire, residual = (QUANTIZED[name] for name in ("chain", "fire", "residual"))
    assert terms(chain) == ({"c1": 102, "c2": 101, "c3": 2, "x": 2},
                            {"c1": multiplier(chain, "c2"), "c2": multiplier(chain, "c3")})
    assert terms(fire) == ({"squeeze": 102, "e1": 2, "e3": 2, "c": 2, "x": 2}, {"squeeze": multiplier(fire, "e1")})
    assert terms(residual)[0] == {"c1": 102, "c2": 2, "c3": 102, "x": 2}
    assert integer_blobs(to_network(fire)[0]) == {blob: "squeeze" for blob in (
        "squeeze", "squeeze_splitncnn_0", "squeeze_splitncnn_1")}


@pytest.mark.parametrize("channels, term", [(8, 101), (16, 101), (6, 1), (12, 1)])
def test_depthwise_layers_that_are_not_packed_hand_on_real_numbers(channels, term):
    """On ARM the kernel for their integers rounds by the column."""
    case = model((channels, 6, 5), [conv("a", "data", (channels, 1, 3, 3), groups=channels, largest=2),
                                    conv("x", "a", (4, channels, 1, 1), largest=2)])
    assert terms(case)[0]["a"] == term
    assert set(integer_grids(case)) == ({"a"} if term > 100 else set())


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_grid_of_codes_that_are_handed_on_is_their_readers(name):
    case = QUANTIZED[name]
    grids, holding = integer_grids(case), integer_blobs(to_network(case)[0])
    assert {node.outputs[0] for node in case.nodes if node.name in grids} == {
        blob for blob in holding if blob in case.shapes}
    for node in case.nodes:
        if node.name in grids:
            assert multiplier(case, next(reader.name for reader in case.nodes if node.outputs[0] in reader.inputs)) == (
                float(np.float32(1) / np.float32(grids[node.name].scale)))


def test_real_numbers_come_out_where_somebody_wants_them():
    def two(second, outputs=None):
        return model((4, 6, 5), [conv("a", "data", (4, 4, 1, 1), largest=2), second], outputs)

    quantized = conv("x", "a", (4, 4, 1, 1), largest=2)
    assert terms(two(quantized))[0]["a"] == 102
    assert terms(two(conv("x", "a", (4, 4, 1, 1))))[0]["a"] == 2
    assert terms(two(dense("x", "a", (4, 120), largest=2)))[0]["a"] == 2
    assert terms(two(quantized, ("x", "a")))[0]["a"] == 2
    both = model((4, 6, 5), [conv("a", "data", (4, 4, 1, 1), largest=2), quantized,
                             ir.Activation("r", ("a",), ("r",), function=RELU)], ("x", "r"))
    assert terms(both)[0]["a"] == 2
    unfused = two(quantized)
    unfused = dataclasses.replace(unfused, nodes=(
        dataclasses.replace(unfused.nodes[0], activation=ir.Function("swish")), unfused.nodes[1]))
    assert terms(unfused)[0]["a"] == 2


def test_the_files_can_forbid_16_bit_floats(ncnn, tmp_path):
    case = QUANTIZED["residual"]
    masked = {layer.name: layer.parameters.get(31) for layer in without_16_bits(to_network(case)[0]).layers}
    assert masked["c1"] == 64 | 7 and masked["c3"] == masked["add"] == masked["splitncnn_0"] == 7
    assert masked["data"] is None
    images = models.inputs(case)
    for number, fp32 in enumerate((False, True)):
        (tmp_path / str(number)).mkdir()
        found = Runner(*writer.write(case, tmp_path / str(number), fp32=fp32)).run(images, case.outputs)
        np.testing.assert_array_equal(found["x"], engine.run(case, images, arithmetic=NcnnArithmetic()).outputs[0])
    plain, forbidding = (NcnnTarget(fp32=fp32).write_files(case, tmp_path)[0].read_text() for fp32 in (False, True))
    assert " 31=71" in forbidding and " 31=71" not in plain


def masked(case, chosen):
    """Layers that are kept from 16 bits."""
    network = without_16_bits(to_network(case)[0], chosen)
    return {layer.name for layer in network.layers if layer.parameters.get(31, 0) & 7 == 7}


def test_what_a_layer_reads_is_kept_from_16_bits_back_to_the_integers_that_it_comes_from():
    case = QUANTIZED["residual"]
    assert masked(case, ["c3"]) == {"c3", "r", "add", "splitncnn_0", "c2"}  # what c1 hands to c2 are codes
    assert masked(case, ["x"]) == {"x", "c3"} and masked(case, ["c2", "x"]) == {"x", "c3", "c2", "c1"}
    assert masked(QUANTIZED["fire"], ["c"]) == {"c", "p", "cat", "e1", "e3"}
    assert masked(QUANTIZED["fire"], ["e1"]) == {"e1", "squeeze", "splitncnn_0"} and masked(case, []) == set()
    # with the second reader's input the Split is kept, too
    assert masked(QUANTIZED["mixed"], ["x"]) == {"x", "m", "s", "c3", "splitncnn_0"}


def test_only_convolutions_that_could_overflow_are_kept_from_winograd():
    parameters = {layer.name: layer.parameters for layer in to_network(QUANTIZED["residual"])[0].layers}
    assert parameters["c1"][31] == 64 and 31 not in parameters["c3"] and 31 not in parameters["x"]
    assert all(31 not in layer.parameters for layer in to_network(QUANTIZED["residual"], integers=False)[0].layers)
    narrow = model((16, 6, 5), [conv("x", "data", (16, 16, 3, 3), largest=2, qmax=31)])
    assert 31 not in to_network(narrow)[0].layers[-1].parameters


def unequal():
    """One blob, quantized with two scales."""
    return model((4, 6, 5), [conv("a", "data", (4, 4, 1, 1), largest=2), conv("x", "a", (4, 4, 1, 1), largest=2),
                             conv("y", "a", (4, 4, 1, 1), largest=3)], ("x", "y"))


def group_scales():
    case = model((4, 6, 5), [conv("x", "data", (4, 2, 1, 1), groups=2, largest=2)])
    case.nodes[0].quantization.weight_scale[1] *= 2
    return case


def ragged_pooling():
    case = one(ir.Pooling, (3, 12, 12), kernel=(3, 3), stride=(2, 2), ceil=True)
    return dataclasses.replace(case, shapes=dict(case.shapes, x=(3, 5, 5)))


class Unknown(ir.Node):
    """A node that no target knows."""


@pytest.mark.parametrize("case, message", [
    (unequal, "a: its readers quantize the blob a with different scales \\(x 63.5, y 42.3"),
    (group_scales, "x: the channels of a group have different weight scales"),
    (ragged_pooling, "x: ncnn pools to 6x6, the model says 5x5"),
    (lambda: one(ir.Reshape, (2, 3, 4, 5, 1), shape=(2, 3, 4, 5, 1)), "input data: ncnn's inputs have 1 to 3 axes"),
    (lambda: one(ir.Reshape, (6, 4, 5), shape=(2, 3, 4, 5, 1)), "x: ncnn's blobs have 1 to 4 axes"),
    (lambda: one(ir.Resize, (3, 2, 2), size=(82, 4)), "x: ncnn rounds the positions of 2 to 82 elements differently"),
    (lambda: ir.Model(("data",), ("x",), (Unknown("x", ("data",), ("x",)),), {"data": (1,), "x": (1,)}),
     "x: ncnn has no layer for Unknown"),
    (lambda: ir.Model(("data",), ("x",), (ir.Activation("x", ("data",), ("x",), function=ir.Function("cube")),),
                      {"data": (1,), "x": (1,)}), "x: ncnn has no layer for the activation 'cube'"),
])
def test_what_ncnn_cannot_hold_is_refused(case, message):
    with pytest.raises(DeployError, match=message):
        to_network(case())
