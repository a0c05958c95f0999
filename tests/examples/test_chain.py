# SPDX-License-Identifier: MIT
"""The whole chain: what one command leaves, the next one goes on with, in another process, as the same network."""

import json
import os
import pathlib
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest

from gluon_quantize.commands.main import main
from gluon_quantize.data.datasets import open_dataset
from gluon_quantize.data.preprocess import digits
from gluon_quantize.models.loading import open_model
from gluon_quantize.models.request import NetworkRequest
from quantize import load_quantized, read_facts

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORT = ("--epochs", 1, "--num-train-images", 200, "--lr", 0.002, "--calib-images", 100, "--no-plots")
MODEL = ("--model", "digits_lenet")
# what is trained for ncnn, and gets a certificate
FITTING = {
    "lsq8": ("--target", "ncnn"),
    "lsq4": ("--target", "ncnn", "--weight-bits", 4, "--input-bits", 4),
    "ste": ("--target", "ncnn", "--method", "ste", "--input-bits", 6),
    "ste, offline": ("--target", "ncnn", "--method", "ste", "--ranges", "offline"),
    "pact": ("--target", "ncnn", "--method", "pact", "--weight-bits", 4, "--input-bits", 4),
    "sat": ("--target", "ncnn", "--method", "sat", "--weight-bits", 5, "--input-bits", 5),
    "31 levels": ("--target", "ncnn", "--keep-winograd"),
    "fake BN": ("--target", "ncnn", "--fake-bn", "running", "--weight-bits", 3),
    "no fold": ("--target", "ncnn", "--fake-bn", "none", "--quant-type", "layer", "--weight-bits", 6),
    "without a target": ("--weight-bits", 4, "--input-bits", 4, "--fake-bn", "corrected", "--first-last-bits", 7),
}
# what is trained for nothing in particular, and cannot be held
OTHERS = {"lsq+": ("--method", "lsq+"), "unsigned": ("--method", "ste"), "winograd": ("--wino-quantize", "F43")}


def run(*arguments):
    """Exit code of the command."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def in_another_process(folders):
    environment = dict(os.environ, OMP_NUM_THREADS="1",
                       PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "examples")]))
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "tests.examples.chain_deploy", *map(str, folders)],
                          cwd=str(ROOT), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Case -> (result.json of its training, what another process made of the checkpoint, folder)."""
    pytest.importorskip("ncnn")
    root = tmp_path_factory.mktemp("chain")
    for name, options in {**FITTING, **OTHERS}.items():
        assert run("train", *MODEL, *SHORT, *options, "--output", root / name) == 0, name
    found = in_another_process([root / name for name in {**FITTING, **OTHERS}])
    return {name: (json.loads((root / name / "result.json").read_text()), facts, root / name)
            for name, facts in found.items()}


@pytest.mark.parametrize("name", [*FITTING, *OTHERS])
def test_a_checkpoint_has_the_accuracy_that_training_said(trained, name):
    """`final.params` used to evaluate to 958 where the log says 954: its modes were lost."""
    result, facts, _ = trained[name]
    assert facts["top1"] == result["best"]["top1_count"]


@pytest.mark.parametrize("name", FITTING)
def test_what_was_trained_is_what_the_engine_computes(trained, name):
    _, facts, _ = trained[name]
    assert facts["shares"] == {"simulation": 1.0, "ncnn exact": 1.0, "ncnn default": 1.0}
    assert facts["engine"] == facts["simulated"] and "digits_lenet.qnet" in facts["files"]


@pytest.mark.parametrize("name, layers, says", [
    ("lsq+", "features.0", "asymmetric"), ("unsigned", "features.4", "input uint8"),
    ("winograd", "features.4", "Winograd domain")])
def test_what_the_engine_cannot_hold_is_said_with_what_to_do(trained, name, layers, says):
    error = trained[name][1]["error"]
    assert layers in error and says in error and "train CHECKPOINT --target ncnn" in error


def test_trained_ranges_and_codes_are_in_the_files(trained):
    from deploy.ir import quantized
    from deploy.ir.file import load
    folder = trained["lsq4"][2]
    net, model = load_quantized(folder / "best.qnet"), load(folder / "deployed" / "digits_lenet.ir")
    blocks = net._children
    for node in quantized(model):
        layer = blocks[node.path]
        assert np.float32(node.quantization.input.scale) == layer.input_quantizer.get_qparams().scale[0]
        rounded = layer.weight_quantizer(layer.effective_weight()).asnumpy()
        step = layer.weight_quantizer.get_qparams().scale
        codes = np.rint(rounded / step.reshape((-1,) + (1,) * (rounded.ndim - 1)))
        assert np.array_equal(np.abs(codes), np.abs(node.quantization.weight_q))  # signs follow those of gamma


@pytest.mark.parametrize("target", ["onnx", "c"])
@pytest.mark.parametrize("name", ["lsq4", "pact", "without a target"])
def test_few_bits_stay_few_in_other_engines(trained, name, target, tmp_path):
    """ONNX files once spread a 4-bit range over the 256 codes of a byte: more accurate, and another network."""
    from deploy.ir import quantized
    from deploy.ir.file import load
    pytest.importorskip("onnx")
    result, _, folder = trained[name]
    assert run("deploy", folder, "--target", target, "--no-engine", "--output", tmp_path / "out") == 0
    blocks = load_quantized(folder / "best.qnet")._children
    steps = {node.path: node.quantization.input.scale for node in quantized(load(tmp_path / "out" / "digits_lenet.ir"))}
    assert steps == {path: pytest.approx(blocks[path].input_quantizer.get_qparams().scale[0]) for path in steps}
    found = json.loads((tmp_path / "out" / "result.json").read_text())["accuracy"]["simulated"]["top1_count"]
    assert abs(found - result["best"]["top1_count"]) <= 1


def test_training_goes_on_and_remembers_where_it_came_from(trained, tmp_path, capsys):
    folder = trained["lsq4"][2]
    assert run("train", folder, *SHORT, "--output", tmp_path / "more") == 0
    assert "int4/channel" in (tmp_path / "more" / "plan.txt").read_text()
    facts = read_facts(tmp_path / "more" / "final.qnet")
    assert [step["command"] for step in facts.provenance] == ["train", "train"]
    assert facts.provenance[1]["started_from"] == read_facts(folder / "best.qnet").digest
    assert facts.target == "ncnn" and list(facts.provenance[1]["sources"]) == ["best.qnet"]
    # other bits: the float network under it is converted anew
    assert run("train", folder / "best.qnet", *SHORT, "--weight-bits", 3, "--output", tmp_path / "fewer") == 0
    plan = (tmp_path / "fewer" / "plan.txt").read_text()
    assert "int3/channel" in plan and "int4" not in plan
    assert read_facts(tmp_path / "fewer" / "final.qnet").target is None
    # SAT's second stage, and float networks, go the same way
    assert run("train", *MODEL, *SHORT, "--method", "float", "--output", tmp_path / "float") == 0
    assert run("simulate", tmp_path / "float", "--num-images", 50) == 0


def test_names_of_classes_go_all_the_way(trained):
    folder = trained["lsq4"][2]
    names = tuple(map(str, range(10)))
    assert read_facts(folder / "best.qnet").class_names == names
    assert read_facts(folder / "deployed" / "digits_lenet.qnet").class_names == names
    assert f"CLASSES = [{', '.join(map(json.dumps, names))}]" in (folder / "deployed" / "run_ncnn.py").read_text()


def test_what_asks_for_other_formats_is_refused(trained, tmp_path, capsys):
    folder = trained["lsq4"][2]
    for options in (("--weight-bits-width", 3), ("--quantize-input-offline",)):
        assert run("simulate", folder, *options) == 2
    assert run("deploy", folder, "--load-table", folder / "plan.txt", "--output", tmp_path / "out") == 2
    assert run("simulate", folder, *MODEL) == 2 and run("simulate", folder, "--params", "x") == 2
    assert run("simulate", tmp_path / "none.qnet") == 2 and run("simulate", tmp_path) == 2
    assert "quantized already" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_is_no_checkpoint_is_told_from_one_with_what_to_do(tmp_path, capsys):
    for name, says in (("best.params", "--params"), ("net.onnx", "--onnx"), ("net-symbol.json", "--symbol")):
        (tmp_path / name).write_text("?")
        assert run("simulate", tmp_path / name) == 2
        assert f"{name}: no checkpoint" in (error := capsys.readouterr().err) and says in error
    (tmp_path / "killed" / "checkpoints").mkdir(parents=True)
    assert run("deploy", tmp_path / "killed", "--output", tmp_path / "out") == 2
    assert "has not ended" in (error := capsys.readouterr().err) and "--resume" in error
    assert not (tmp_path / "out").exists()


def test_reasons_come_before_training(tmp_path, capsys):
    assert run("train", *MODEL, "--target", "ncnn", "--method", "sat", "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("features.4", "features.8", "features.12")) and "7 bits at most" in error
    assert run("train", *MODEL, "--target", "none", "--output", tmp_path / "out") == 2
    assert run("train", *MODEL, "--target", "ncnn", "--wino-quantize", "F43", "--output", tmp_path / "out") == 2
    assert run("train", *MODEL, "--target", "ncnn", "--method", "float", "--output", tmp_path / "out") == 2


# ---- calibrate -> train -> deploy, by every method, from every kind of file


def write_onnx(net, path):
    """digits_lenet as exporters write it."""
    from onnx import TensorProto, helper, numpy_helper, save
    arrays, nodes, last = {}, [], "image"

    def add(op, parts, **attrs):
        nonlocal last
        names = []
        for name, parameter in parts:
            names.append(f"{op}{len(nodes)}_{name}")
            arrays[names[-1]] = parameter.data().asnumpy()
        nodes.append(helper.make_node(op, [last, *names], [f"t{len(nodes)}"], **attrs))
        last = f"t{len(nodes) - 1}"
    for layer in [*net.features, net.output]:
        kind = type(layer).__name__
        if kind == "Conv2D":
            add("Conv", [("w", layer.weight)], pads=[1, 1, 1, 1])
        elif kind == "BatchNorm":
            add("BatchNormalization", [("g", layer.gamma), ("b", layer.beta), ("m", layer.running_mean),
                                       ("v", layer.running_var)], epsilon=1e-5)
        elif kind == "Dense":
            add("Gemm", [("w", layer.weight), ("b", layer.bias)], transB=1)
            if layer.act is not None:
                add("Relu", [])
        else:
            add({"Activation": "Relu", "MaxPool2D": "MaxPool", "Flatten": "Flatten"}[kind], [],
                **({"kernel_shape": [2, 2], "strides": [2, 2]} if kind == "MaxPool2D" else {}))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
              for name, shape in (("image", (1, 8, 8)), (last, (10,)))]
    model = helper.make_model(helper.make_graph(nodes, "lenet", values[:1], values[1:], [
        numpy_helper.from_array(array, name) for name, array in arrays.items()]),
        opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    save(model, str(path))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """digits_lenet as a symbol and as an ONNX file: kind -> what names it on a command line."""
    pytest.importorskip("onnx")
    root = tmp_path_factory.mktemp("files")
    net = open_model(NetworkRequest(model="digits_lenet")).net
    net.hybridize()
    net(mx.nd.array(np.stack([digits().apply(open_dataset("digits").load(i)) for i in range(2)])))
    net.export(str(root / "lenet"))
    write_onnx(net, root / "lenet.onnx")
    data = ("--dataset", "digits")
    return {"symbol": ("--symbol", root / "lenet-symbol.json", *data), "onnx": ("--onnx", root / "lenet.onnx", *data)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["symbol", "onnx"])
def test_every_method_goes_from_a_file_to_its_certificate(files, kind, tmp_path):
    pytest.importorskip("ncnn")
    cases = {name.replace(" ", "_"): options for name, options in {**FITTING, **OTHERS}.items()}
    for name, options in cases.items():
        assert run("train", *files[kind], *SHORT, *options, "--output", tmp_path / name) == 0, name
    found = in_another_process([tmp_path / name for name in cases])
    for name, facts in found.items():
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert facts["top1"] == result["best"]["top1_count"] > 250, name
        if name.replace("_", " ") in OTHERS:
            assert "train CHECKPOINT --target ncnn" in facts["error"], name
            continue
        assert facts["shares"] == {"simulation": 1.0, "ncnn exact": 1.0, "ncnn default": 1.0}, name
        assert facts["engine"] == facts["simulated"], name


# ---- simulate -> deploy, from every kind of file


@pytest.fixture(scope="module")
def simulated(files, tmp_path_factory):
    """Source -> what another process made of the network that `simulate` left."""
    pytest.importorskip("ncnn")
    root = tmp_path_factory.mktemp("simulated")
    for name, options in {"gluon": MODEL, **files}.items():
        assert run("simulate", *options, "--target", "ncnn", "--merge-bn", "--exclude-first-conv", "false",
                   "--quantize-input-offline", "--calib-mode", "mse", "--output", root / name) == 0
    found = in_another_process([root / "gluon", *[root / name for name in files]])
    return {name: (json.loads((root / name / "result.json").read_text()), facts) for name, facts in found.items()}


@pytest.mark.parametrize("source", ["gluon", "symbol", "onnx"])
def test_a_simulated_network_is_deployed_as_it_is(simulated, source):
    result, facts = simulated[source]
    assert facts["top1"] == result["quantized"]["top1_count"]
    assert facts["shares"] == {"simulation": 1.0, "ncnn exact": 1.0, "ncnn default": 1.0}
