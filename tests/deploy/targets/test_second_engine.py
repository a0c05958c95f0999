# SPDX-License-Identifier: MIT
"""A second engine, made here and nowhere else: conversion, lowering, writing, proof and certificate work for it.

The engine is a toy on purpose unlike ncnn: 7-bit inputs, 5-bit weights, codes rounded half up, biases rounded to whole
sums, one file that is the IR's own. It computes by plain loops over windows, and shares no line with `deploy.engine`.
"""

import dataclasses
import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import ir
from deploy.arithmetic import Arithmetic, per_channel
from deploy.ir import file
from deploy.lower import lower
from deploy.proof.certificate import JSON, TEXT, certificate_text, write_certificate
from deploy.proof.prove import Side, Subject, engine_sides, prove
from deploy.target import TARGETS, Engine, Extra, Option, Problem, Session, Target, Way, find
from deploy.targets.ncnn import NcnnTarget
from gluon_quantize.runs.deploy import DeployRequest, ImagesRequest, NetworkRequest, deploy
from gluon_quantize.runs.requests import QuantizationRequest
from quantize.convert import convert_model, merge_bn
from quantize.errors import ConfigError, DeployError
from quantize.modes import quantize_input

SHAPE = (3, 9, 8)


def half_up(x):
    return np.floor(np.asarray(x, np.float64) + 0.5)


def whole_bias(node):
    """The bias in units of the sums."""
    step = np.float64(node.quantization.input.scale) * node.quantization.weight_scale.astype(np.float64)
    return half_up(node.bias.astype(np.float64) / step), step


class ToyArithmetic(Arithmetic):
    """What the toy does where integers meet real numbers."""

    name = "toy"

    def quantize(self, x, grid):
        """Half up."""
        return np.clip(half_up(np.asarray(x, np.float64) / grid.scale), grid.qmin, grid.qmax).astype(np.int32)

    def dequantize(self, accumulator, node):
        """The bias joins the sums."""
        bias, step = whole_bias(node)
        sums = accumulator.astype(np.float64) + bias.reshape((-1,) + (1,) * (accumulator.ndim - 2))
        return (sums * step.reshape((-1,) + (1,) * (accumulator.ndim - 2))).astype(np.float32)


class ToySession(Session):
    """The file in the toy's own interpreter; `hasty` cuts codes off instead of rounding them."""

    def __init__(self, path, hasty):
        self.model, self.hasty = file.load(path), hasty

    def options(self):
        """What the certificate says of the run."""
        return {"hasty": self.hasty}

    def run(self, inputs, extract):
        """Blobs of a batch."""
        blobs = {self.model.inputs[0]: np.asarray(inputs, np.float32)}
        for node in self.model.nodes:
            blobs[node.outputs[0]] = self._node(node, blobs[node.inputs[0]])
        return {name: blobs[name] for name in extract}

    def _node(self, node, x):
        if isinstance(node, ir.Pooling):
            return self._windows(x, node.kernel, node.stride, node.pads).max(axis=(4, 5)).astype(np.float32)
        if node.quantization is None:
            y = self._sums(node, x, node.weight) + per_channel(node.bias, 2 if node.weight.ndim == 2 else 4)
            return np.maximum(y, 0) if node.activation is not None else y
        round_code = np.floor if self.hasty else half_up
        grid, (bias, step) = node.quantization.input, whole_bias(node)
        codes = np.clip(round_code(x.astype(np.float64) / grid.scale), grid.qmin, grid.qmax).astype(np.int64)
        sums = self._sums(node, codes, node.quantization.weight_q.astype(np.int64))
        y = ((sums + bias.reshape((-1,) + (1,) * (sums.ndim - 2)))
             * step.reshape((-1,) + (1,) * (sums.ndim - 2))).astype(np.float32)
        return np.maximum(y, 0) if node.activation is not None else y

    def _sums(self, node, values, weight):
        if isinstance(node, ir.InnerProduct):
            return values.reshape(len(values), -1) @ weight.T
        windows = self._windows(values, weight.shape[2:], node.stride, node.pads)
        return np.einsum("nchwij,ocij->nohw", windows, weight)

    @staticmethod
    def _windows(x, kernel, stride, pads):
        top, left, bottom, right = pads
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        found = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
        return found[:, :, ::stride[0], ::stride[1]]


class ToyEngine(Engine):
    """Always there."""

    ways = (Way("exact", False), Way("hasty", True))

    def require(self):
        """Nothing is needed."""

    def versions(self):
        """For the certificate."""
        return {"toy": "1"}

    def open(self, files, way):
        """The only file."""
        return ToySession(files[0], bool(way.options))

    def deviations(self, model, way):
        """Every layer of the hasty way deviates, and it is known why."""
        return {node.name: "codes are cut off" for node in ir.quantized(model)} if way.options else {}


class ToyTarget(Target):
    """All that a target must say, and one or two things that it may."""

    name, suffixes, weights_suffix = "toy", (".toy",), ".toy"
    arithmetic, engine = ToyArithmetic(), ToyEngine()
    options = (Option("wide", "--wide", "6 bits instead of 5"),)

    def __init__(self, wide=False):
        self.wide, self.bits = wide, 6 if wide else 5

    def config_list(self, net):
        """7-bit inputs, 5-bit weights."""
        return [{"op_types": ["Conv2D", "Dense"], "weight": f"int{self.bits}/channel", "input": "int7"}]

    def check_plan(self, layers):
        """More bits than it has."""
        return [Problem(entry.path, f"weight {entry.weight}, but the toy has {self.bits} bits")
                for entry, _ in layers if entry.quantized and entry.weight.bits > self.bits]

    def check(self, model):
        """Operations that it does not know; layers that stay float."""
        known = (ir.Convolution, ir.InnerProduct, ir.Pooling)
        found = [Problem(node.path or node.name, f"the toy has no {type(node).__name__}") for node in model.nodes
                 if not isinstance(node, known)]
        return found + [Problem(node.name, "is not quantized", fatal=False) for node in model.nodes
                        if isinstance(node, known[:2]) and ir.integers(node) is None]

    def write_files(self, model, folder, name="model", integers=True):
        """The IR's own format."""
        path = folder / (name + ".toy")
        file.save(model, path)
        return (path,)

    def extras(self):
        """A list of the layers."""
        return (Extra("layers.txt", lambda model, path: path.write_text(" ".join(n.name for n in model.nodes))),)


def network():
    mx.random.seed(5)
    np.random.seed(5)
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(8, 3, padding=1, use_bias=False), nn.BatchNorm(epsilon=1e-3), nn.Activation("relu"),
                nn.MaxPool2D(2), nn.Conv2D(6, 3, strides=2), nn.Activation("relu"), nn.Dense(5))
    net.initialize(mx.init.Xavier(magnitude=3))
    net(mx.nd.zeros((1,) + SHAPE))
    merge_bn(net)
    for layer in (net[0], net[4], net[6]):
        layer.bias.set_data(mx.nd.random.normal(scale=0.2, shape=layer.bias.shape))
    return net


def images(count):
    return np.random.RandomState(6).randn(count, *SHAPE).astype(np.float32)


@pytest.fixture
def toy(monkeypatch):
    """The target, entered in the table for the time of a test."""
    TARGETS.names()  # all others have entered themselves
    monkeypatch.setattr(TARGETS, "_members", dict(TARGETS._members))
    TARGETS.register("toy")(ToyTarget)
    return find("toy")


@pytest.fixture
def model(toy):
    """A network converted for the toy by its name, calibrated and lowered."""
    net = convert_model(network(), target="toy")
    assert {(str(entry.weight), str(entry.input)) for entry in net.plan.entries} == {("int5/channel", "int7/layer")}
    calibrate(net, observe(net, [mx.nd.array(images(20))], calibrator=CALIBRATORS.get("minmax")()),
              CALIBRATORS.get("minmax")())
    quantize_input(net, online=False)
    return lower(net, SHAPE, arithmetic=toy.arithmetic)


def proof(toy, model, files):
    return prove(Subject("net", toy, model, files), engine_sides(toy, model, files), [images(12)])


def test_it_is_found_by_name_beside_the_others(toy):
    assert {"caffe", "ncnn", "toy"} <= set(TARGETS.names())
    assert find("toy", wide=True).bits == 6 and find("toy") is toy and isinstance(find("ncnn"), NcnnTarget)
    with pytest.raises(ConfigError, match="unknown target 'toi'; known: .*toy.*did you mean 'toy'"):
        convert_model(network(), target="toi")


def test_its_rules_and_objections_come_before_simulation(toy):
    with pytest.raises(ConfigError, match="target 'toy' cannot follow.*0: weight int8/channel, but the toy has 5 bits"):
        convert_model(network(), target="toy", config_list=[{"op_names": ["0"], "weight": "int8/channel"}])
    convert_model(network(), target=find("toy", wide=True), config_list=[{"op_names": ["0"], "weight": "int6/channel"}])


def test_what_it_cannot_hold_is_not_written(toy, model, tmp_path):
    node = ir.Softmax("soft", model.outputs, ("soft",))
    more = ir.Model(model.inputs, ("soft",), model.nodes + (node,), dict(model.shapes, soft=(5,)))
    with pytest.raises(DeployError, match="toy cannot hold this network:\nsoft: the toy has no Softmax"):
        toy.write(more, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_files_are_proved(toy, model, tmp_path):
    files = toy.write(model, tmp_path)
    assert [path.name for path in files] == list(toy.files())
    contents = proof(toy, model, files)
    exact, hasty = (contents["sides"][name] for name in ("toy exact", "toy hasty"))
    assert exact["codes"]["identical"] == exact["codes"]["elements"] and exact["first_deviation"] is None
    assert exact["largest_real_difference"]["largest"] == 0 and exact["top1_agreement"] == 12
    assert hasty["first_deviation"] == "4" and hasty["options"] == {"hasty": True}
    assert contents["machine"]["toy"] == "1" and list(contents["files"]) == ["model.toy"]
    assert contents["layers"][1]["reasons"] == {"toy hasty": {"from": "0", "why": "codes are cut off"}}


def test_the_certificate_names_it(toy, model, tmp_path):
    contents = proof(toy, model, toy.write(model, tmp_path))
    write_certificate(tmp_path, contents)
    assert json.loads((tmp_path / JSON).read_text())["sides"]["toy exact"]["options"] == {"hasty": False}
    text = (tmp_path / TEXT).read_text()
    assert text == certificate_text(contents) and "toy exact" in text and "codes are cut off" in text
    assert "ncnn" not in text and "packing" not in text


def test_a_changed_file_is_found_out(toy, model, tmp_path):
    changed = [dataclasses.replace(node, quantization=dataclasses.replace(
        node.quantization, weight_q=-node.quantization.weight_q)) if node is model.nodes[0] else node
        for node in model.nodes]
    files = toy.write(ir.Model(model.inputs, model.outputs, tuple(changed), model.shapes), tmp_path)
    assert proof(toy, model, files)["sides"]["toy exact"]["first_deviation"] == ir.quantized(model)[1].name


def test_what_it_does_not_declare_is_absent_and_not_an_error(toy, model, tmp_path):
    assert toy.simulation is None and toy.reports() == () and toy.sum_limits(model) == {}
    assert toy.programs("net", None, toy.files(), ("data", "x")) == {}
    extra, = toy.extras()
    extra.write(model, tmp_path / extra.file)
    assert (tmp_path / "layers.txt").read_text().startswith("0 ")
    with pytest.raises(DeployError, match="toy has no engine here"):
        toy.run(tmp_path, images(1))


def test_a_target_that_leaves_out_what_is_required_cannot_be_made():
    class Half(Target):
        name = "half"
    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_the_application_deploys_for_it_without_knowing_it(toy, tmp_path):
    result = deploy(DeployRequest(
        NetworkRequest(model="digits_lenet"), ImagesRequest(count=40), output=str(tmp_path / "out"), verify_images=10,
        quantization=QuantizationRequest(target="toy", merge_bn=True, exclude_first=False), latency_runs=1))
    exact = result.certificate["sides"]["toy exact"]
    assert exact["codes"]["identical"] == exact["codes"]["elements"]
    assert set(result.accuracy) >= {"toy int8"} and result.accuracy["toy int8"].top1 > 0.5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"digits_lenet-int8.toy", "digits_lenet-float.toy", "layers.txt", "certificate.md"} <= names
    assert not any("ncnn" in name for name in names)


def test_sides_of_any_kind_are_compared(toy, model, tmp_path):
    session = toy.engine.open(toy.write(model, tmp_path), toy.engine.ways[0])
    side = Side(toy.engine.side(model, session))
    contents = prove(Subject("net", toy, model), {"mine": side}, [images(3)])
    assert list(contents["sides"]) == ["mine"] and "toy" not in contents["machine"]


def test_latency_is_measured_by_running(toy, model, tmp_path):
    session = toy.engine.open(toy.write(model, tmp_path), toy.engine.ways[0])
    seconds = session.latency(images(2), list(model.outputs), repeats=4, warmup=1)
    assert seconds.shape == (4,) and (np.diff(seconds) >= 0).all() and seconds[0] > 0


def test_the_toys_arithmetic_is_its_own(model):
    """Half way between two codes the toy goes up where the textbook goes away from zero."""
    grid = ir.quantized(model)[0].quantization.input
    halves = np.float32([-1.5, -0.5, 0.5, 1.5]) * np.float32(0.25)
    quarter = ir.Grid(0.25, qmin=grid.qmin, qmax=grid.qmax)
    assert ToyArithmetic().quantize(halves, quarter).tolist() == [-1, 0, 1, 2]
    assert Arithmetic().quantize(halves, quarter).tolist() == [-2, -1, 1, 2]
    assert per_channel(np.float32([1, 2]), 4).shape == (1, 2, 1, 1)
