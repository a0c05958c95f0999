# SPDX-License-Identifier: MIT
"""Networks with several inputs through the commands: simulated, deployed, checked again, from every kind of file."""

import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from deploy.ir.file import load
from gluon_quantize.commands.main import main
from quantize import load_quantized, save_quantized
from quantize.storage import Facts

SHAPES = ((2, 9, 7), (5,))
LOADER = '''
import numpy as np

class Pairs:
    def __init__(self, split):
        random = np.random.RandomState(len(split))
        self.maps = random.normal(size=(40, 2, 9, 7)).astype("float32")
        self.facts = random.normal(size=(40, 5)).astype("float32")
        self.labels = list(random.randint(0, 4, 40))
    def __len__(self):
        return 40
    def __getitem__(self, index):
        return (self.maps[index], self.facts[index]), self.labels[index]

def pairs(split):
    return Pairs(split)

def batches(split):
    data = Pairs(split)
    parts = [slice(0, 20), slice(20, 40)]
    return [((data.maps[part], data.facts[part]), data.labels[part]) for part in parts]

class Other(Pairs):
    def __init__(self, split, chosen):
        super().__init__(split)
        self.chosen = chosen
    def __getitem__(self, index):
        parts, label = super().__getitem__(index)
        return (parts[0] if self.chosen is None else tuple(parts[i] for i in self.chosen)), label

def alone(split):
    return Other(split, None)

def turned(split):
    return Other(split, (1, 0))
'''


class Two(nn.HybridBlock):
    """A picture and a row of facts, of which the scores and a map come."""

    def __init__(self):
        super().__init__(prefix="")
        self.first = nn.Conv2D(6, 3, padding=1, in_channels=2)
        self.second = nn.Conv2D(4, 3, in_channels=6)
        self.facts = nn.Dense(8, activation="relu", in_units=5)
        self.scores = nn.Dense(4, in_units=4 + 8)

    def hybrid_forward(self, F, x, facts):
        y = F.relu(self.second(F.relu(self.first(x))))
        pooled = F.Flatten(F.Pooling(y, global_pool=True, pool_type="max", kernel=(1, 1)))
        return self.scores(F.concat(pooled, self.facts(facts), dim=1)), y


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folder with the network as a symbol, as a checkpoint and (where it can be written) as ONNX, and the loader."""
    folder = tmp_path_factory.mktemp("two")
    mx.random.seed(3)
    net = Two()
    net.initialize(mx.init.Xavier(magnitude=4))
    inputs = [mx.nd.random.normal(shape=(3, *shape)) for shape in SHAPES]
    net(*inputs)
    net.hybridize()
    net(*inputs)
    net.export(str(folder / "two"))
    save_quantized(net, folder / "two.qnet", inputs=2, facts=Facts(extra={"name": "two"}))
    write_onnx(net, folder / "two.onnx")
    (folder / "pairs.py").write_text(LOADER)
    return folder


def write_onnx(net, path):
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper
    kind = onnx.TensorProto.FLOAT
    arrays = {name.replace(".", "_"): parameter.data().asnumpy()
              for name, parameter in net._collect_params_with_prefix().items()}
    nodes = [helper.make_node("Conv", ["image", "first_weight", "first_bias"], ["a"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Conv", ["b", "second_weight", "second_bias"], ["c"]),
             helper.make_node("Relu", ["c"], ["map"]), helper.make_node("GlobalMaxPool", ["map"], ["p"]),
             helper.make_node("Flatten", ["p"], ["flat"]),
             helper.make_node("Gemm", ["facts", "facts_weight", "facts_bias"], ["d"], transB=1),
             helper.make_node("Relu", ["d"], ["e"]), helper.make_node("Concat", ["flat", "e"], ["f"], axis=1),
             helper.make_node("Gemm", ["f", "scores_weight", "scores_bias"], ["scores"], transB=1)]
    values = [helper.make_tensor_value_info(name, kind, ["N", *shape])
              for name, shape in (("image", SHAPES[0]), ("facts", SHAPES[1]), ("scores", (4,)), ("map", (4, 7, 5)))]
    graph = helper.make_graph(nodes, "two", values[:2], values[2:],
                              [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    onnx.save(model, str(path))


def run(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def source(place, kind):
    return {"symbol": ("--symbol", place / "two-symbol.json"), "onnx": ("--onnx", place / "two.onnx"),
            "checkpoint": (place / "two.qnet",)}[kind]


@pytest.mark.parametrize("kind", ["symbol", "onnx", "checkpoint"])
def test_from_file_to_certificate(place, kind, tmp_path):
    pytest.importorskip("ncnn")
    data = ("--data", f"{place / 'pairs.py'}:pairs", "--metric", "agreement")
    assert run("simulate", *source(place, kind), *data, "--target", "ncnn", "--output", tmp_path / "simulated") == 0
    result = json.loads((tmp_path / "simulated" / "result.json").read_text())
    assert min(result["responses"]["sqnr_db"]) > 20 and len(result["responses"]["sqnr_db"]) == 2
    assert "100.0% of" in (tmp_path / "simulated" / "plan.txt").read_text()
    net = load_quantized(tmp_path / "simulated" / "network.qnet")
    assert net.inputs == 2 and len(net(*[mx.nd.ones((2, *shape)) for shape in SHAPES])) == 2
    # what was simulated, and the float network itself
    for name, what in (("again", (tmp_path / "simulated",)), ("direct", source(place, kind))):
        out = tmp_path / name
        assert run("deploy", *what, *data, "--verify-images", 10, "--latency-runs", 1, "--output", out) == 0
        found = json.loads((out / "result.json").read_text())
        assert {side["codes"]["share"] for side in found["verification"].values()} == {1.0}
        assert min(found["accuracy"]["ncnn int8"]["sqnr_db"]) > 20
        (model,) = out.glob("*.ir")
        model = load(model)
        assert [model.shapes[name] for name in model.inputs] == list(SHAPES)
        assert not list(out.glob("run_ncnn.*"))  # which would read one image
        assert run("recheck", out) == 0


def test_labels_and_batches_count_as_for_one_input(place, tmp_path, capfd):
    assert run("simulate", "--symbol", place / "two-symbol.json", "--data", f"{place / 'pairs.py'}:batches", "--metric",
               "top1", "--num-images", 30) == 0
    assert "Top-1" in capfd.readouterr().out  # of the first output
    assert run("simulate", "--symbol", place / "two-symbol.json", "--data", f"{place / 'pairs.py'}:batches", "--metric",
               "agreement", "--compare-calibrators", "--num-images", 30) == 0


@pytest.mark.parametrize("loader, says", [("alone", "takes 2 inputs"), ("turned", "has the shape (2, 9, 7)")])
def test_images_that_do_not_fit_the_inputs_are_refused(place, loader, says, tmp_path, capfd):
    pytest.importorskip("onnx")
    assert run("deploy", "--onnx", place / "two.onnx", "--data", f"{place / 'pairs.py'}:{loader}", "--output",
               tmp_path / "out") == 2
    assert says in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_what_takes_one_input_says_so(place, tmp_path, capfd):
    assert run("simulate", "--symbol", place / "two-symbol.json", "--dataset", "digits") == 2
    assert "takes 2 inputs (data0, data1)" in capfd.readouterr().err
    assert run("train", place / "two.qnet", "--data", f"{place / 'pairs.py'}:pairs", "--output", tmp_path / "out") == 2
    assert "train takes networks with one input" in capfd.readouterr().err


def test_packed_inputs_are_the_inputs(place):
    from gluon_quantize.models.inputs import pack
    from quantize.errors import DataError
    net = load_quantized(place / "two.qnet")
    inputs = [mx.nd.random.normal(shape=(3, *shape)) for shape in SHAPES]
    expected = [y.asnumpy() for y in net(*inputs)]
    with pytest.raises(DataError, match="takes 2 inputs .data0, data1., image 0 is 3"):
        pack(net, [(1,)] * 3, "image 0")
    pack(net, SHAPES, "image 0")
    joined = mx.nd.concat(*[x.reshape((3, -1)) for x in inputs], dim=1)
    for hybridized in (False, True):
        net.hybridize(hybridized)
        for given in (inputs, [joined]):
            for mine, wanted in zip(net(*given), expected):
                np.testing.assert_array_equal(mine.asnumpy(), wanted)
