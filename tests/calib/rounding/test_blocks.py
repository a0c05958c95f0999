# SPDX-License-Identifier: MIT
import logging
import re

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import MinMax
from calib.collect import calibrate, observe
from calib.rounding import BRECQ, GPTQ, Problem
from calib.rounding.blocks import Joint, SoftLayer, blocks_of
from calib.rounding.gptq import finished
from calib.rounding.learn import Chains, Unrounded, learn_rounding, problem_of, store
from quantize.convert import convert_model
from quantize.errors import ConfigError
from quantize.modes import quantize_input, quantized_layers
from quantize.reference import quantize
from quantize.spec import PerChannel, QuantSpec
from quantize.stages import Chain, LayerGraph, float_product, quantized_product

QUICK = BRECQ(iterations=100, batch=16)


class Residual(nn.HybridBlock):
    def __init__(self, channels):
        super().__init__()
        with self.name_scope():
            self.one, self.two = nn.Conv2D(channels, 3, padding=1), nn.Conv2D(channels, 3, padding=1)

    def hybrid_forward(self, F, x):
        return F.relu(x + self.two(F.relu(self.one(x))))


def converted():
    mx.random.seed(1)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(6, 3, padding=1), nn.Activation("relu"), Residual(6), Residual(6), nn.GlobalAvgPool2D(),
            nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    x = mx.nd.array(np.random.RandomState(0).gamma(1, 1, size=(64, 3, 8, 8)))
    net(x)
    convert_model(net, config_list=[{"op_types": ["Conv2D", "Dense"], "weight": "int3/channel", "input": "auto6"}])
    calibrate(net, observe(net, [x], MinMax()), MinMax())
    quantize_input(net, True, online=False)
    return net, x


def weights(net):
    return {path: layer.weight.data().asnumpy() for path, layer in quantized_layers(net)}


def test_blocks_end_where_a_single_tensor_passes():
    net, _ = converted()
    graph = LayerGraph(net)
    assert blocks_of(graph, list(graph.calls)) == [["0", "2.one", "2.two"], ["3.one", "3.two"], ["5"]]


def test_no_block_is_worse_than_by_gptq_and_some_are_better(caplog):
    net, x = converted()
    with caplog.at_level(logging.INFO, "calib.rounding.learn"):
        found = learn_rounding(net, [x], QUICK)
    errors = [tuple(map(float, re.search("output (.*) by GPTQ, (.*) learned", record.message).groups()))
              for record in caplog.records if record.message.startswith("block")]
    assert len(errors) == 3 and any(after < before for before, after in errors)
    assert [layer.path for layer in found] == ["0", "2.one", "2.two", "3.one", "3.two", "5"]
    for path, layer in quantized_layers(net):
        quantizer = layer.weight_quantizer
        codes = quantize(weights(net)[path], quantizer.get_qparams(), quantizer.spec)
        assert np.abs(codes).max() <= 3
        np.testing.assert_array_equal(quantizer(layer.weight.data()).asnumpy(), weights(net)[path])


def test_equal_seeds_give_equal_bits_and_a_killed_run_goes_on(tmp_path):
    one, x = converted()
    learn_rounding(one, [x], QUICK)
    two, _ = converted()

    def killed(items):
        for number, item in enumerate(items):
            if number == 4:  # within the second block, which begins anew
                raise KeyboardInterrupt()
            yield item

    with pytest.raises(KeyboardInterrupt):
        learn_rounding(two, [x], QUICK, folder=tmp_path, progress=killed)
    assert len(list(tmp_path.glob("layer_*"))) == 3
    three, _ = converted()
    learn_rounding(three, [x], QUICK, folder=tmp_path)
    for path, values in weights(one).items():
        np.testing.assert_array_equal(values, weights(three)[path])


def test_a_soft_layer_starts_at_gptqs_codes_and_its_gradient_is_its_slope():
    random = np.random.RandomState(0)
    x = random.normal(1, 1, size=(1, 100, 5))
    weight = random.normal(size=(1, 3, 5))
    y = x @ weight.swapaxes(1, 2)
    gram = np.cov(x[0].T, bias=True)[None]
    spec = QuantSpec(3, granularity=PerChannel(0))
    problem = Problem(weight, gram, weight @ gram, x.mean(1), y.mean(1), y.var(1), spec)
    solution = GPTQ().solve(problem)
    soft = SoftLayer(problem, solution, 0.1)
    np.testing.assert_array_equal(soft.codes(), solution.codes)

    def value():
        made, bias = soft.operands((3, 5))
        return (made ** 2).sum() + (bias ** 2).sum()

    with mx.autograd.record():
        loss = value()
    loss.backward()
    found, slopes = soft.variable.grad.asnumpy(), np.zeros((1, 3, 5))
    for index in np.ndindex(1, 3, 5):
        kept = soft.variable.asnumpy()
        for sign in (1, -1):
            moved = kept.copy()
            moved[index] += sign * 0.05
            soft.variable[:] = moved
            slopes[index] += sign * float(value().asscalar()) / 0.1
        soft.variable[:] = kept
    np.testing.assert_allclose(found, slopes, rtol=0.05, atol=0.02)


def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match="drop"):
        BRECQ(drop=2)


def joint_of(net, x):
    """(graph, block of all steps, layers' problems) in front of which both networks stand."""
    graph = LayerGraph(net)
    starts = tuple(Chain(graph, [x], compute) for compute in (float_product(graph), quantized_product(graph)))
    chains = Chains(starts[0].copy(), starts[1].copy(), len(x))
    problems = {path: problem_of(graph, path, chains, (0, 1, number)) for number, path in enumerate(graph.calls)}
    return graph, Joint(graph, starts, len(graph.steps)), problems


def nearest(problem):
    steps = problem.largest(problem.weight) / problem.spec.qmax
    return finished(problem, problem.codes(problem.weight, steps[problem.parts()][..., None]), steps)


def test_the_gradient_of_a_blocks_error_is_numpys():
    net = nn.HybridSequential()
    net.add(nn.Dense(4))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier(magnitude=3))
    x = mx.nd.array(np.random.RandomState(0).normal(1, 1, size=(50, 7)))
    net(x)
    convert_model(net, config_list=[{"op_types": ["Dense"], "weight": "int3/channel", "input": "float"}])
    graph, block, problems = joint_of(net, x)
    soft = SoftLayer(problems["0"], nearest(problems["0"]), 0.1)
    with mx.autograd.record():
        missed = block._missed(block._run({graph.data: x}, block._soft({"0": soft}, 0, None)), block._wanted.state(0))
    missed.backward()
    sigmoid = 1 / (1 + np.exp(-soft.v.astype(np.float64)))[0]
    codes = soft.floor[0] + 1.2 * sigmoid - 0.1
    weight = np.clip(codes, -3, 3) * soft.steps[0]
    centred = x.asnumpy() - x.asnumpy().mean(0)
    wanted = x.asnumpy() @ problems["0"].weight[0].T
    error = centred @ weight.T - (wanted - wanted.mean(0))
    assert float(missed.asscalar()) == pytest.approx((error ** 2).mean() / wanted.var(), rel=1e-4)
    slope = 2 * error.T @ centred / error.size / wanted.var() * soft.steps[0] * 1.2 * sigmoid * (1 - sigmoid)
    slope[np.abs(codes) > 3] = 0
    np.testing.assert_allclose(soft.variable.grad.asnumpy()[0], slope, rtol=1e-3, atol=1e-6)


def test_from_the_nearest_codes_a_block_learns_its_error_away():
    net, x = converted()
    graph, block, problems = joint_of(net, x)
    start = block.loss()
    before = {path: Unrounded.of(graph.layers[path]) for path in problems}
    soft = {path: SoftLayer(problem, nearest(problem), 0.03) for path, problem in problems.items()}
    block.learn(soft, BRECQ(iterations=150, batch=32, drop=0), (0, 0), start)
    for path, layer in soft.items():
        store(graph.layers[path], finished(problems[path], layer.codes(), nearest(problems[path]).scale), before[path])
    assert block.loss() < start / 2
