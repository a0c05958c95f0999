# SPDX-License-Identifier: MIT
"""Inputs with fewer codes than a byte has: trained steps stay as they are, and the codes of the simulation come out."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import ir
from deploy.fusing import endings
from deploy.lower import lower
from deploy.narrow import narrow_clips, without_wider_clips
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.target import find
from quantize.convert import convert_model
from quantize.modes import quantize_input
from tests.deploy.targets.extremes import extremes

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
SHAPE = (3, 9, 9)
TARGET = find("onnx")


def images(count, seed=2):
    return np.random.RandomState(seed).randn(count, *SHAPE).astype(np.float32)


def chain(activation="relu"):
    net = nn.HybridSequential(prefix="")
    net.add(nn.Conv2D(6, 3, padding=1), nn.Activation(activation) if activation == "relu" else Clip(),
            nn.Conv2D(6, 3, activation="relu"), nn.MaxPool2D(2, 2), nn.Conv2D(8, 1), nn.Activation("relu"),
            nn.Flatten(), nn.Dense(5))
    return net


class Clip(nn.HybridBlock):
    """ReLU6, for smaller values."""

    def hybrid_forward(self, F, x):
        return F.clip(x, 0, 2)


class Shortcut(nn.HybridBlock):
    """A sum that a layer with few codes and a later sum read; a blob that two layers with other codes read."""

    def __init__(self):
        super().__init__(prefix="")
        self.first, self.second, self.third = (nn.Conv2D(6, 3, padding=1) for _ in range(3))
        self.other, self.output = nn.Conv2D(6, 3, padding=1), nn.Dense(5)

    def hybrid_forward(self, F, x):
        x = F.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        y = F.relu(self.third(x))
        return self.output(F.concat(self.other(x), y, dim=1) + F.concat(y, x, dim=1))


def quantized(net, given):
    mx.random.seed(4)
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.array(images(1)))
    net = convert_model(net, target=TARGET, example_input=mx.nd.array(images(1)), config_list=[
        {"op_types": ["Conv2D", "Dense"], "weight": "int4/channel/even", "input": given}])
    calibrator = CALIBRATORS.get("mse")()
    calibrate(net, observe(net, [mx.nd.array(images(20))], calibrator), calibrator)
    quantize_input(net, online=False)
    return net


def settled(net):
    return TARGET.settled(lower(net, SHAPE, arithmetic=TARGET.arithmetic),
                          lambda model, specs: extremes(model, specs, images(20)))


def steps(net):
    """Path -> the step of a layer's input in the simulation."""
    return {path: float(layer.input_quantizer.get_qparams().scale[0]) for path, layer in children(net)}


def children(net):
    return [(name, child) for name, child in net._children.items() if hasattr(child, "input_quantizer")]


@pytest.mark.parametrize("given", ["auto1/even", "auto2/even", "auto4/even", "uint7/even", "auto(5)/even"])
@pytest.mark.parametrize("make", [chain, lambda: chain("clip"), Shortcut], ids=["chain", "clip", "shortcut"])
def test_trained_steps_stay_and_every_code_is_the_engines(make, given, tmp_path):
    if given == "auto1/even":
        given = "uint1/even"  # of the image's values the negative ones are lost, here as there
    net = quantized(make(), given)
    model = settled(net)
    assert not TARGET.check(model)
    wanted = steps(net)
    assert {node.path: node.quantization.input.scale for node in ir.quantized(model)} == pytest.approx(wanted)
    files = TARGET.write(model, tmp_path)
    contents = prove(Subject("net", TARGET, model, files), engine_sides(TARGET, model, files), [images(24, 9)])
    codes = contents["sides"]["onnx exact"]["codes"]
    assert codes["identical"] == codes["elements"] > 10000


@pytest.mark.parametrize("given", ["uint1/even", "uint2/even", "uint4/even"])
@pytest.mark.parametrize("activation", ["relu", "clip"])
def test_a_chain_has_the_outputs_of_the_simulation(activation, given, tmp_path):
    """Nothing is rounded on the way but what the layers read: real sums next to a half apart, all is as trained."""
    net = quantized(chain(activation), given)
    model = settled(net)
    TARGET.write(model, tmp_path)
    x = images(40, 9)
    simulated = net(mx.nd.array(x)).asnumpy()
    found, = TARGET.run(tmp_path, x)
    near = np.abs(found - simulated).max(axis=1) <= 1e-4 * np.abs(simulated).max()
    assert near.mean() > 0.9 and (found.argmax(axis=1) == simulated.argmax(axis=1)).mean() > 0.95


def test_a_clip_behind_which_fewer_codes_are_is_a_relu():
    """So that the convolution computes in integers; one that cuts off more stays."""
    model = settled(quantized(chain("clip"), "uint4/even"))
    assert all(node.name in endings(model) for node in model.nodes if isinstance(node, ir.Convolution))


def test_weights_of_few_bits_leave_their_bias_fine_units():
    net = quantized(chain(), "uint4/even")
    layer, = (node for node in ir.quantized(lower(net, SHAPE, arithmetic=TARGET.arithmetic)) if node.path == "2")
    stored, = (node for node in ir.quantized(settled(net)) if node.path == "2")
    assert np.abs(layer.quantization.weight_q).max() == 7 and stored.quantization.weight_qmax == 112
    np.testing.assert_array_equal(stored.quantization.weight_q, layer.quantization.weight_q * 16)
    np.testing.assert_array_equal(stored.quantization.weight_scale, layer.quantization.weight_scale / np.float32(16))
    fewer = find("onnx", reduce_range=True).settled(lower(net, SHAPE, arithmetic=TARGET.arithmetic), lambda *_: {})
    assert {node.quantization.weight_qmax for node in ir.quantized(fewer)} == {56}


@pytest.mark.parametrize("ends, narrow", [
    ((0.0, 1.5), True), ((0.0, 255 * 0.5), False), ((0.0, 1.6), False), ((0.0, 200.0), False), ((-1.0, 1.5), False)])
def test_a_clip_is_narrow_where_it_cuts_off_whole_codes(ends, narrow):
    """A ReLU6 whose layer has just these 256 codes is none: the ends of the grid do what it does."""
    weight = np.ones((1, 2), np.float32)
    layer = ir.InnerProduct("b", ("a",), ("b",), weight=weight, quantization=ir.Quantization(
        ir.Grid(0.5, 0, 0, 255), weight.astype(np.int8), np.ones(1, np.float32)))
    clip = ir.Activation("a", ("data",), ("a",), function=ir.Function("clip", ends))
    model = ir.Model(("data",), ("b",), (clip, layer), {"data": (2,), "a": (2,), "b": (1,)})
    assert bool(narrow_clips(model, {})) == narrow


def test_a_clip_stays_where_something_reads_more_of_it():
    """One part of a blob is cut off further, the other part goes out as it is."""
    def model(last):
        clip = ir.Activation("a", ("data",), ("a",), function=ir.Function("clip", (0.0, 6.0)))
        parts = ir.Slice("s", ("a",), ("one", "two"), sizes=(1, 1), axis=0)
        narrow = [ir.Activation(f"n{blob}", (blob,), (f"n{blob}",), function=ir.Function("clip", (0.0, 1.5)))
                  for blob in ("one", "two")]
        shapes = {"data": (2,), "a": (2,), "one": (1,), "two": (1,), "none": (1,), "ntwo": (1,)}
        return ir.Model(("data",), ("none", last), (clip, parts, *narrow), shapes)
    ends = {"none": (0.0, 1.5), "ntwo": (0.0, 1.5)}
    assert without_wider_clips(model("ntwo"), ends).nodes[0].function.kind == "relu"
    assert without_wider_clips(model("two"), ends).nodes[0].function.kind == "clip"
