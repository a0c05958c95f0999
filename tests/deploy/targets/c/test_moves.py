# SPDX-License-Identifier: MIT
"""C source of what moves numbers, of transposed convolutions, and of operations with a number."""

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import engine, ir
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.target import find
from deploy.targets.c.simplify import simplified
from quantize.convert import convert_model
from quantize.modes import quantize_input

SHAPE = (4, 6, 5)


class Between(nn.HybridSequential):
    """Two layers with something between them."""

    def __init__(self, what):
        super().__init__(prefix="net_")
        self.what = what
        with self.name_scope():
            self.add(nn.Conv2D(4, 3, in_channels=4, padding=1), nn.Conv2D(3, 1))

    def hybrid_forward(self, F, x):
        return self[1](self.what(F, self[0](x)))


def swapped(F, x):
    first, second = F.split(x, num_outputs=2, axis=1)
    return F.concat(second, first, F.concat(*F.split(first, num_outputs=2, axis=1), dim=1), dim=1)


WHAT = {
    "axes, parts, repeats": lambda F, x: F.repeat(F.repeat(F.slice(F.transpose(x, axes=(0, 2, 3, 1)), begin=(
        None, 1, 1, 2), end=(None, 3, 5, None)), repeats=2, axis=2), repeats=3, axis=3),
    "split": swapped,
    "numbers": lambda F, x: F.pad(F.clip(F._internal._minimum_scalar(x * 1.7, scalar=0.25) + 0.3, -1, 1),
                                  mode="constant", pad_width=(0, 0, 0, 0, 2, 0, 0, 3)),
    "sizes": lambda F, x: F.reshape(F.UpSampling(F._internal._maximum_scalar(0.4 - x / 3, scalar=-0.125), scale=3,
                                                 sample_type="nearest"), shape=(0, 8, 9, 15)),
}


def images(count=12):
    return np.random.RandomState(1).randn(count, *SHAPE).astype(np.float32)


def proved(net, target, folder):
    """The settled model, after compiling it; every code is the engine's."""
    net = convert_model(net, target=target, example_input=mx.nd.array(images(1)))
    calibrator = CALIBRATORS.get("minmax")()
    calibrate(net, observe(net, [mx.nd.array(images())], calibrator=calibrator), calibrator)
    quantize_input(net, online=False)
    model = target.settled(lower(net, SHAPE, arithmetic=target.arithmetic), lambda model, specs: {})
    assert target.check(model) == []
    files = target.write(model, folder)
    contents = prove(Subject("net", target, model, files), engine_sides(target, model, files), [images()])
    side = contents["sides"]["c exact"]
    assert side["codes"]["identical"] == side["codes"]["elements"] > 100
    assert side["largest_real_difference"]["largest"] == 0
    want = net(mx.nd.array(images())).asnumpy()
    got = target.run(folder, images())[0]
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
    return model


def floating(make):
    mx.random.seed(5)
    net = make()
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1, *SHAPE)))
    return net


@pytest.mark.parametrize("what", WHAT)
def test_between_layers(what, tmp_path):
    model = proved(floating(lambda: Between(WHAT[what])), find("c"), tmp_path)
    assert not any(isinstance(node, (ir.ScalarOp, ir.Slice)) for node in model.nodes)


@pytest.mark.parametrize("options, scaling", [
    (dict(kernel_size=(4, 3), strides=(2, 3), padding=1, groups=2, activation="relu"), ""),
    (dict(kernel_size=3, strides=2, dilation=2, output_padding=1), "single_shift")], ids=str)
def test_transposed_convolutions(options, scaling, tmp_path):
    def make():
        net = nn.HybridSequential(prefix="net_")
        with net.name_scope():
            net.add(nn.Conv2D(4, 3, activation="relu"), nn.Conv2DTranspose(4, in_channels=4, **options), nn.Dense(5))
        return net
    target = find("c", **({scaling: True} if scaling else {}))
    net = floating(make)
    if scaling:  # shifts are as far off as they are: codes are what is compared
        net = convert_model(net, target=target)
        calibrator = CALIBRATORS.get("minmax")()
        calibrate(net, observe(net, [mx.nd.array(images())], calibrator=calibrator), calibrator)
        quantize_input(net, online=False)
        model = target.settled(lower(net, SHAPE, arithmetic=target.arithmetic), lambda model, specs: {})
        target.write(model, tmp_path)
        np.testing.assert_array_equal(target.run(tmp_path, images())[0], engine.run(
            model, images(), arithmetic=target.arithmetic).outputs[0])
    else:
        model = proved(net, target, tmp_path)
    assert len(ir.quantized(model)) == 3


def test_padded_channels_as_cifars_shortcuts_have_them(tmp_path):
    rng = np.random.RandomState(3)
    grid = ir.Grid(0.03125, 7, 0, 255)
    weight = rng.uniform(-1, 1, (3, 9, 1, 1)).astype(np.float32)
    codes = np.clip(np.rint(weight * 100), -127, 127).astype(np.int8)
    nodes = (ir.Rounding("round", ("data",), ("round",), grid=grid),
             ir.Padding("pad", ("round",), ("pad",), pads=(1, 0, 0, 2), channels=(2, 3)),
             ir.Convolution("conv", ("pad",), ("conv",), weight=weight, bias=np.float32([0.5, -1, 2]),
                            quantization=ir.Quantization(grid, codes, np.float32([0.01, 0.02, 0.005]))))
    model = ir.Model(("data",), ("conv",), nodes, {"data": SHAPE, "round": SHAPE, "pad": (9, 7, 7), "conv": (3, 7, 7)})
    target = find("c")
    assert target.check(model) == []
    target.write(model, tmp_path)
    np.testing.assert_array_equal(target.run(tmp_path, images())[0], engine.run(
        model, images(), arithmetic=target.arithmetic).outputs[0])


@pytest.mark.parametrize("op, scalar", [("add", 0.5), ("sub", 0.5), ("rsub", 0.5), ("mul", -2.0), ("div", 4.0),
                                        ("min", 0.25), ("max", -0.25)])
def test_numbers_become_factors_and_clips_that_compute_the_same(op, scalar):
    nodes = (ir.ScalarOp("s", ("data",), ("s",), op=op, scalar=scalar),)
    model = ir.Model(("data",), ("s",), nodes, {"data": SHAPE, "s": SHAPE})
    got, want = (engine.run(each, images()).outputs[0] for each in (simplified(model), model))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_what_has_no_factor_stays_and_is_refused():
    nodes = (ir.Rounding("round", ("data",), ("round",), grid=ir.Grid(0.5)),
             ir.ScalarOp("s", ("round",), ("s",), op="pow", scalar=2.0))
    model = ir.Model(("data",), ("s",), nodes, {"data": SHAPE, "round": SHAPE, "s": SHAPE})
    problems = find("c").check(find("c").settled(model, None))
    assert any("C source has no ScalarOp" in problem.text for problem in problems)
