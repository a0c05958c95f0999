# SPDX-License-Identifier: MIT
"""What ends the process in oneDNN: BatchNorm behind fully connected layers, slices of a convolution's channels."""

import faulthandler
import os
import subprocess
import sys

import mxnet as mx
import numpy as np
import onnx
import pytest
from mxnet import autograd
from mxnet.gluon import nn
from onnx import TensorProto, helper, numpy_helper

from deploy.engine import run
from deploy.lower import lower
from deploy.targets.ncnn import TARGET
from quantize.convert import convert_model, fake_bn, merge_bn, remove_fake_bn
from quantize.convert.graph import batchnorm_partners, trace
from quantize.importers.onnx import import_onnx
from quantize.importers.symbol import import_symbol
from quantize.onednn import BatchNorm, guard_norms
from quantize.stages import LayerGraph, run_operator
from quantize.storage import load_quantized, save_quantized
from quantize.train import freeze_bn

CHANNELS, BATCH = 16, 2


def network(flat=True):
    """A convolution to one pixel with BatchNorm, then fully connected layers with as many channels."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(CHANNELS, 3, in_channels=8), nn.BatchNorm(in_channels=CHANNELS), nn.Activation("relu"))
        if flat:
            net.add(nn.Flatten(), nn.Dense(CHANNELS, in_units=CHANNELS), nn.BatchNorm(in_channels=CHANNELS),
                    nn.Activation("relu"), nn.Dense(4, in_units=CHANNELS))
    mx.random.seed(3)
    net.initialize(mx.init.Xavier())
    return net


def images():
    return mx.nd.array(np.random.RandomState(1).uniform(-1, 1, (BATCH, 8, 3, 3)))


def blocked():
    """BatchNorms of oneDNN's in the layout that convolutions leave, in inference and in training."""
    net = network(flat=False)
    net.hybridize()
    for train in (False, True):
        with autograd.record(train_mode=train):
            loss = net(images()).sum()
        loss.backward()
        net(images()).wait_to_read()
    mx.nd.waitall()


def used(net, train, hybridize, x=None):
    """Outputs and parameters after some steps."""
    if hybridize:
        net.hybridize()
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1e-3})
    x, found = images() if x is None else x, []
    for _ in range(2):
        if train:
            with autograd.record():
                loss = (net(x) ** 2).sum()
            loss.backward()
            trainer.step(len(x))
        found.append(net(x).asnumpy())
    return found + [parameter.data().asnumpy() for parameter in net.collect_params().values()]


def cut(channels, begin, end):
    """A convolution, and some of what it puts out."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(channels, 2, in_channels=8),
            nn.HybridLambda(lambda F, x: F.slice(x, begin=(None, begin, 1), end=(None, end, None))))
    net.initialize()
    return net


def onnx_file(path):
    """x (N, 16) -> Gemm -> BatchNormalization -> Relu -> BatchNormalization"""
    rng = np.random.RandomState(0)
    norm = [rng.uniform(0.5, 1, CHANNELS).astype(np.float32) for _ in range(4)]
    arrays = {"w": rng.randn(CHANNELS, CHANNELS).astype(np.float32), **dict(zip("gbmv", norm))}
    nodes = [helper.make_node(op, [x, *weights], [y]) for op, x, weights, y in (
        ("Gemm", "x", "w", "t0"), ("BatchNormalization", "t0", "gbmv", "t1"), ("Relu", "t1", "", "t2"),
        ("BatchNormalization", "t2", "gbmv", "y"))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS])],
                              [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), str(path))


# ---- what a process of its own runs, which MXNet's fault would end


def guarded(train, hybridize):
    net = network()
    guard_norms(net)
    used(net, train, hybridize)


def folded(train, hybridize):
    net = convert_model(network())
    used(net, train, hybridize)
    fake_bn(net, "batch" if hybridize else "running")
    used(net, train, hybridize)
    remove_fake_bn(net)
    used(net, train, hybridize)
    for frozen in (True, False):
        freeze_bn(net, frozen)
        used(net, train, hybridize)


def imported(train, hybridize):
    onnx_file("net.onnx")
    net = import_onnx("net.onnx")
    x = mx.nd.array(np.random.RandomState(1).uniform(-1, 1, (BATCH, CHANNELS)))
    for each in (net, convert_model(net)):
        if hybridize:
            each.hybridize()
        with autograd.record(train_mode=train):
            loss = each(x)
        loss.backward()
        each(x).wait_to_read()


def from_files(train, hybridize):
    net = network()
    arrays = {parameter.name: parameter.data() for parameter in net.collect_params().values()}
    symbol = trace(net).symbol
    auxiliary = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
    mx.model.save_checkpoint("net", 0, symbol, arrays, auxiliary)
    used(import_symbol("net-symbol.json", "net-0000.params"), train, hybridize)
    save_quantized(convert_model(net), "net.qnet")
    used(load_quantized("net.qnet"), train, hybridize)


def in_stages(_train, _hybridize):
    step = next(step for step in LayerGraph(network()).steps if step.op == "BatchNorm")
    run_operator(step, [mx.nd.ones((BATCH, CHANNELS)), *[mx.nd.ones(CHANNELS)] * 4]).wait_to_read()


def sliced(train, hybridize):
    """Some of eight channels, and of 24: a split of shufflenet's, as a file has it."""
    for channels, begin, end in ((8, 0, 4), (8, 2, 6), (24, 12, 24)):
        net = cut(channels, begin, end)
        arrays = {parameter.name: parameter.data() for parameter in net.collect_params().values()}
        mx.model.save_checkpoint("cut", 0, trace(net).symbol, arrays, {})
        save_quantized(net, "cut.qnet")
        x = images()
        want = net[0](x).asnumpy()[:, begin:end, 1:]
        for each in (import_symbol("cut-symbol.json", "cut-0000.params"), load_quantized("cut.qnet")):
            if hybridize:
                each.hybridize()
            with autograd.record(train_mode=train):
                found = each(x)
            found.backward()
            np.testing.assert_array_equal(found.asnumpy(), want)
        step = next(step for step in LayerGraph(net).steps if step.op == "slice")
        np.testing.assert_array_equal(run_operator(step, [net[0](x)]).asnumpy(), want)


def everything(train, hybridize):
    faulthandler.enable()
    blocked()
    for case in (guarded, folded, imported, from_files, in_stages, sliced):
        case(train, hybridize)
    print("all of it")


@pytest.mark.parametrize("train, hybridize", [(True, True), *[pytest.param(*each, marks=pytest.mark.slow) for each in (
    (False, False), (False, True), (True, False))]])
def test_nothing_of_it_ends_the_process(tmp_path, train, hybridize):
    call = f"from tests.quantize import test_onednn; test_onednn.everything({train}, {hybridize})"
    done = subprocess.run([sys.executable, "-c", call],
                          cwd=str(tmp_path), env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
                          capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and "all of it" in done.stdout, done.stderr[-3000:]


# ---- and what stays as it is


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("hybridize", [False, True])
def test_guarded_norms_compute_the_same_to_the_bit(train, hybridize):
    """Statistics and gradients, too: with channels that oneDNN's blocks do not fit, where nothing ends the process."""
    def net():
        found = nn.HybridSequential()
        found.add(nn.Dense(7, in_units=5), nn.BatchNorm(in_channels=7), nn.Activation("relu"), nn.Dense(7, in_units=7),
                  nn.BatchNorm(in_channels=7, scale=False), nn.Dense(3, in_units=7))
        mx.random.seed(5)
        found.initialize(mx.init.Xavier())
        return found

    def results(net):
        return used(net, train, hybridize, mx.nd.array(np.random.RandomState(2).uniform(-1, 1, (6, 5))))

    safe = net()
    guard_norms(safe, (None, 5))
    assert [type(block) for block in safe._children.values()].count(BatchNorm) == 2
    for have, want in zip(results(safe), results(net())):
        np.testing.assert_array_equal(have, want)


def test_norms_of_images_stay_and_those_of_rows_are_one_operator_to_who_looks_at_graphs():
    net = network()
    guard_norms(net)
    assert [type(net[index]) for index in (1, 5)] == [nn.BatchNorm, BatchNorm]
    assert repr(net[5]) == repr(network()[5])
    assert batchnorm_partners(trace(net)) == batchnorm_partners(trace(network())) == {"0": "1", "4": "5"}
    assert "reshape_like" not in trace(net).symbol.tojson()
    x = images()
    want = net(x).asnumpy()
    assert merge_bn(net) == [("0", "1"), ("4", "5")]
    np.testing.assert_allclose(net(x).asnumpy(), want, rtol=1e-4, atol=1e-5)


def test_norms_of_unknown_tensors_are_guarded_and_those_along_other_axes_are_not():
    net = nn.HybridSequential()
    net.add(nn.HybridLambda(lambda F, x: F.reshape(x, shape=(-1, 6))), nn.BatchNorm(in_channels=6),
            nn.HybridLambda(lambda F, x: F.reshape(x, shape=(-1, 2, 3, 1))), nn.BatchNorm(axis=2, in_channels=3))
    net.initialize()
    guard_norms(net, (None, None, None, None))
    assert [type(net[index]) for index in (1, 3)] == [BatchNorm, nn.BatchNorm]
    assert net(mx.nd.ones((2, 2, 3, 1))).shape == (2, 2, 3, 1)


def test_frozen_norms_are_again_what_they_were():
    net = convert_model(network())
    kinds = [type(net[index]) for index in (1, 5)]
    freeze_bn(net)
    assert [type(net[index]).__name__ for index in (1, 5)] == ["FrozenBatchNorm"] * 2
    assert "reshape_like" not in trace(net).symbol.tojson()
    freeze_bn(net, False)
    assert [type(net[index]) for index in (1, 5)] == kinds == [nn.BatchNorm, BatchNorm]


def test_a_network_without_a_graph_is_left_as_it_is():
    class Looks(nn.HybridSequential):
        def hybrid_forward(self, F, x):
            return super().hybrid_forward(F, x) if float(x.asnumpy().max()) else x

    net = Looks()
    net.add(nn.Dense(3, in_units=3), nn.BatchNorm(in_channels=3))
    guard_norms(net)
    assert type(net[1]) is nn.BatchNorm


def test_exported_networks_compute_merge_and_deploy_as_the_files_they_came_from(tmp_path, monkeypatch):
    """What export writes is what is computed: maps of one line, and copies."""
    monkeypatch.chdir(tmp_path)
    onnx_file("net.onnx")
    rows, eights = mx.nd.array(np.random.RandomState(1).uniform(-1, 1, (3, CHANNELS))), cut(8, 0, 4)
    arrays = {parameter.name: parameter.data() for parameter in eights.collect_params().values()}
    mx.model.save_checkpoint("cut", 0, trace(eights).symbol, arrays, {})
    for net, x in ((import_onnx("net.onnx"), rows), (import_symbol("cut-symbol.json", "cut-0000.params"), images())):
        want = net(x).asnumpy()
        net.hybridize()
        net(x)
        net.export("again")
        again = import_symbol("again-symbol.json", "again-0000.params")
        np.testing.assert_array_equal(again(x).asnumpy(), want)
        model = lower(again, x.shape[1:], arithmetic=TARGET.arithmetic, quantized=False)
        np.testing.assert_allclose(run(model, x.asnumpy()).outputs[0], want, atol=1e-5)
        assert merge_bn(again) == ([("t0", "t1")] if x is rows else [])
        np.testing.assert_allclose(again(x).asnumpy(), want, atol=1e-5)
