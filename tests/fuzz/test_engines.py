# SPDX-License-Identifier: MIT
"""Random networks in ONNX Runtime, at 8 bits and fewer, and as C source: every code is the integer engine's."""

import collections
import pathlib

import mxnet as mx
import numpy as np
import onnx
import pytest

from calib.calibrators import CALIBRATORS
from calib.collect import calibrate, observe
from deploy import ir
from deploy.fusing import moves, rounded_blobs
from deploy.lower import lower
from deploy.proof.prove import Subject, engine_sides, prove
from deploy.target import find
from quantize.convert import convert_model
from quantize.errors import QuantizeError
from quantize.importers.onnx import import_onnx
from quantize.modes import fix_params
from tests.deploy.targets.extremes import extremes
from tests.fuzz.generate import generate

pytest.importorskip("onnxruntime")
QUICK, SLOW, PART = 48, 3000, 100
EXACT, LEFT_OUT = "exact", "refused, or float between integer layers"
# ONNX Runtime's own: it joins paddings with poolings, and then refuses the poolings
OTHERS_FAULT = "Pad should be smaller than kernel"


def few(bits):
    """Rules of fewer bits for the target onnx."""
    return [{"op_types": ["Conv2D", "Dense"], "weight": f"int{bits}/channel/even", "input": f"auto{bits}/even"}]


CASES = {"onnx 8": ("onnx", None), "onnx 4": ("onnx", few(4)), "onnx 2": ("onnx", few(2)), "c": ("c", None)}


def quantized(net, target, rules, images):
    net = convert_model(net, target=target, config_list=rules)
    calibrator = CALIBRATORS.get("mse")()
    calibrate(net, observe(net, [mx.nd.array(images)], calibrator), calibrator)
    net.quantize_input(enable=True, online=False)
    fix_params(net)
    return net


def steps(model):
    return {node.name: node.quantization.input.scale for node in ir.quantized(model)}


def in_float(model):
    """Whether codes depend on what is computed in float, in an order and with functions of the engine's own."""
    rounded, real = rounded_blobs(model), set()
    for node in model.nodes:
        behind = bool(real.intersection(node.inputs))
        if behind and isinstance(node, ir.Rounding):
            return True
        if behind or not is_exact(node, rounded):
            real.update(node.outputs)
    return False


def is_exact(node, rounded):
    """Whether a node computes with integers, or with single values that it hands on or cuts off."""
    function = ir.activation(node)
    if function is not None and function.kind not in ("relu", "clip"):
        return False
    if isinstance(node, ir.Elementwise) and node.op == "add" or isinstance(node, ir.Pooling):
        return moves(node) or all(blob in rounded for blob in node.inputs)
    return ir.integers(node) is not None or moves(node) or isinstance(node, (ir.Rounding, ir.Activation, ir.Concat))


def outcome(seed, case, folder):
    """EXACT or LEFT_OUT, for a seed's network; AssertionError where the integer engine and the engine differ."""
    (name, rules), recipe = CASES[case], generate(seed)
    target, images = find(name), recipe.images(4, part=1)
    onnx.save(recipe.model(), str(folder / "net.onnx"))
    net = import_onnx(folder / "net.onnx")
    try:
        target.write_files(lower(net, recipe.shape, arithmetic=target.arithmetic, quantized=False), folder, "float",
                           integers=False)
        lowered = lower(quantized(net, target, rules, images), recipe.shape, arithmetic=target.arithmetic)
        model = target.settled(lowered, lambda model, specs: extremes(model, specs, images))
        if target.check(model) or in_float(model):
            return LEFT_OUT
        assert rules is None or steps(model) == steps(lowered), f"seed {seed}, {case}: steps have changed"
        files = target.write(model, folder)
        found = prove(Subject("net", target, model, files), engine_sides(target, model, files), [images])
    except QuantizeError as error:
        assert "cannot load it" not in str(error) or OTHERS_FAULT in str(error), f"seed {seed}, {case}: {error}"
        return LEFT_OUT
    side = found["sides"][f"{name} exact"]
    assert side["codes"]["identical"] == side["codes"]["elements"], f"seed {seed}, {case}: {side}"
    return EXACT


def counts(seeds, case, folder):
    with np.errstate(all="ignore"):
        return collections.Counter(outcome(seed, case, folder) for seed in seeds)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_random_networks(case, tmp_path):
    """What a target has no form of is refused by errors of the project's own; the rest is exact."""
    assert counts(range(QUICK), case, tmp_path)[EXACT] >= QUICK / 16


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", range(QUICK, QUICK + SLOW, PART))
@pytest.mark.filterwarnings("ignore")
def test_many_random_networks(first, case, tmp_path: pathlib.Path):
    assert counts(range(first, first + PART), case, tmp_path)
