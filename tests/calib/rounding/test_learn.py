# SPDX-License-Identifier: MIT
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from calib.rounding import GPTQ
from calib.rounding.learn import learn_rounding, restore_rounding
from quantize.convert import convert_model
from quantize.errors import CalibrationError, ConfigError, DataError
from quantize.modes import fix_params, quantize_input, quantized_layers, unfix_params
from quantize.reference import quantize
from quantize.spec import QParams

TYPES = ["Conv2D", "Dense"]


def converted(weight="int3/channel", given="auto8", layers=None, exclude=(), **options):
    """(converted and calibrated network, images, its float outputs)."""
    mx.random.seed(2)
    net = nn.HybridSequential()
    net.add(*(layers or [nn.Conv2D(8, 3, padding=1), nn.Activation("relu"), nn.Conv2D(8, 3, strides=2, groups=8),
                         nn.Activation("relu"), nn.Conv2D(12, 1), nn.Activation("relu"), nn.Dense(6)]))
    net.initialize(mx.init.Xavier(magnitude=3))
    x = mx.nd.array(np.random.RandomState(0).gamma(1, 1, size=(48, 3, 9, 9)))
    wanted = net(x).asnumpy()
    convert_model(net, exclude, config_list=[dict(op_types=TYPES, weight=weight, input=given, **options)])
    if given != "float":
        calibrate(net, observe(net, [x], MinMax()), MinMax())
        quantize_input(net, enable=True, online=False)
    return net, x, wanted


def error(net, x, wanted):
    fix_params(net)
    found = np.square(net(x).asnumpy() - wanted).mean() / wanted.var()
    unfix_params(net)
    return found


def weights(net):
    return {path: layer.weight.data().asnumpy() for path, layer in quantized_layers(net)}


@pytest.mark.parametrize("weight", ["int3/layer", "int3/group", "int3/channel", "int(5)/channel"])
def test_the_outputs_are_closer_and_the_weights_lie_on_their_grids(weight):
    net, x, wanted = converted(weight)
    before = error(net, x, wanted)
    found = learn_rounding(net, [x[:20], x[20:]])
    assert [layer.path for layer in found] == ["0", "2", "4", "6"]
    assert error(net, x, wanted) < 0.6 * before
    for path, layer in quantized_layers(net):
        quantizer = layer.weight_quantizer
        assert quantizer.mode == "offline"
        qparams = quantizer.get_qparams()
        codes = quantize(weights(net)[path], qparams, quantizer.spec)
        np.testing.assert_array_equal(quantizer(layer.weight.data()).asnumpy(), weights(net)[path])
        assert np.abs(codes).max() <= quantizer.spec.qmax


def test_it_can_be_taken_back():
    net, x, wanted = converted()
    before, weight = error(net, x, wanted), weights(net)
    for _ in range(2):  # a second call starts from the float network, too
        learn_rounding(net, [x])
    first = weights(net)
    restore_rounding(net)
    assert error(net, x, wanted) == before
    for path, values in weights(net).items():
        np.testing.assert_array_equal(values, weight[path])
    learn_rounding(net, [x])
    for path, values in weights(net).items():
        np.testing.assert_array_equal(values, first[path])


def test_equal_seeds_give_equal_bits():
    one, x, _ = converted()
    two, _, _ = converted()
    for net in (one, two):
        learn_rounding(net, [x], seed=3)
    for path, values in weights(one).items():
        np.testing.assert_array_equal(values, weights(two)[path])


class Killed(Exception):
    pass


def stop_after(count):
    def progress(items):
        for number, item in enumerate(items):
            if number == count:
                raise Killed()
            yield item
    return progress


def test_a_killed_run_goes_on(tmp_path):
    net, x, _ = converted()
    learn_rounding(net, [x])
    whole = weights(net)
    again, _, _ = converted()
    with pytest.raises(Killed):
        learn_rounding(again, [x], folder=tmp_path / "run", progress=stop_after(2))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["layer_0000.npz", "layer_0001.npz",
                                                                         "rounding.json"]
    solved = []

    class Counting(GPTQ):
        def solve(self, problem, seed=0):
            solved.append(problem.weight.shape)
            return super().solve(problem, seed)

        def __repr__(self):
            return repr(GPTQ())

    third, _, _ = converted()
    learn_rounding(third, [x], Counting(), folder=tmp_path / "run")
    assert len(solved) == 2
    for path, values in weights(third).items():
        np.testing.assert_array_equal(values, whole[path])


def test_the_folder_of_another_run_is_refused(tmp_path):
    net, x, _ = converted()
    learn_rounding(net, [x], folder=tmp_path)
    json.loads((tmp_path / "rounding.json").read_text())
    for change in ({"seed": 1}, {"method": GPTQ(damping=0.1)}):
        with pytest.raises(ConfigError, match="progress of another run"):
            learn_rounding(net, [x], folder=tmp_path, **change)
    with pytest.raises(ConfigError, match="progress of another run"):
        learn_rounding(net, [x + 1], folder=tmp_path)


def test_float_inputs_and_excluded_layers():
    net, x, wanted = converted(given="float")
    before = error(net, x, wanted)
    assert len(learn_rounding(net, [x])) == 4
    assert error(net, x, wanted) < 0.6 * before
    net, x, wanted = converted(exclude=["0", "4"])
    kept = weights(net)
    assert [layer.path for layer in learn_rounding(net, [x])] == ["2", "6"]
    assert kept.keys() == {"2", "6"}


def test_layers_behind_make_up_for_those_before():
    net, x, wanted = converted()
    learn_rounding(net, [x])
    with_feedback = error(net, x, wanted)
    restore_rounding(net)
    for path, layer in quantized_layers(net):  # each by itself, as if all inputs were the float network's
        others = [q for p, other in quantized_layers(net) if p != path for _, q in other.quantizers()]
        modes = [q.mode for q in others]
        for quantizer in others:
            quantizer.mode = "float"
        solution = learn_rounding(net, [x])
        assert [found.path for found in solution] == [path]
        weight, bias, scale = layer.weight.data(), layer.bias.data(), layer.weight_quantizer.scale.data()
        kept = (weight.copy(), bias.copy(), scale.copy())
        restore_rounding(net)
        for quantizer, mode in zip(others, modes):
            quantizer.mode = mode
        layer.kept = kept
    for _, layer in quantized_layers(net):
        layer.weight.set_data(layer.kept[0])
        layer.bias.set_data(layer.kept[1])
        layer.weight_quantizer.set_qparams(QParams.symmetric(layer.kept[2].asnumpy()))
        layer.weight_quantizer.mode = "offline"
    assert with_feedback < error(net, x, wanted)


def test_bad_input():
    net, x, _ = converted()
    with pytest.raises(CalibrationError, match="8 images are too few"):
        learn_rounding(net, [x[:8]])
    with pytest.raises(DataError, match="batch 1 is a str"):
        learn_rounding(net, ["x"])
    with pytest.raises(ConfigError, match="unknown method of rounding"):
        learn_rounding(net, [x], "guess")
    net, x, _ = converted("float")
    with pytest.raises(ConfigError, match="no rounding to learn"):
        learn_rounding(net, [x])
    net, x, _ = converted("int4/channel/affine")
    with pytest.raises(ConfigError, match="4 layers cannot be learned: 0: .*affine|asymmetric"):
        learn_rounding(net, [x])
    net, x, _ = converted("int8/channel", layers=[nn.Conv2D(4, 3), nn.Dense(3)], winograd="F43")
    with pytest.raises(ConfigError, match="Winograd domain"):
        learn_rounding(net, [x])
