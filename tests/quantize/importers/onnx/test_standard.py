# SPDX-License-Identifier: MIT
"""The cases that come with the onnx library: the standard's own for each operator, PyTorch's, and nine whole networks.

Inputs but the first become initializers. Each case is computed as its file says, or refused in one line.
"""

import pathlib
import re

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantize.errors import ModelFileError
from quantize.importers.onnx import OPERATORS, import_onnx
from tests.quantize.importers.onnx.judge import judged_by_name

DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
KINDS = ("node", "pytorch-converted", "pytorch-operator", "simple")
FOLDED = {"Constant", "Shape", "Size"}
# ONNX Runtime, whose results we have, divides by another size here than the standard; float64 beyond float32
DIFFERS = {"test_resize_downsample_scales_linear_align_corners", "test_operator_addconstant"}
# MXNet has no tensors without elements; the library gives bfloat16 as the integers of its bits
STRANGE = re.compile("empty_set|zero_size|zero_shape|zero_dim|tensor_with_zero|BFLOAT16")


def read(path):
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def case(folder):
    """(model, first input, outputs), or None where the case is of no concern here."""
    model = onnx.load(str(folder / "model.onnx"))
    known = {node.op_type for node in model.graph.node} <= set(OPERATORS) | FOLDED
    if not known or not model.graph.input or STRANGE.search(folder.name):
        return None
    try:
        inputs = [read(folder / "test_data_set_0" / f"input_{index}.pb") for index in range(len(model.graph.input))]
        outputs = [read(folder / "test_data_set_0" / f"output_{index}.pb") for index in range(len(model.graph.output))]
        stored = {tensor.name for tensor in model.graph.initializer}
        for value, array in list(zip(model.graph.input, inputs))[1:]:
            if value.name not in stored:
                model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    except (ValueError, OSError):
        return None  # sequences, strings, numbers of 4 bits
    if inputs[0].dtype.kind != "f" or any(array.dtype.kind not in "fiub" for array in outputs):
        return None
    del model.graph.input[1:]
    return model, inputs[0], outputs


def cases():
    return sorted(folder for kind in KINDS for folder in (DATA / kind).glob("*") if (folder / "model.onnx").is_file())


def outcome(folder, path):
    """"same", "refused" or None; fails on another result."""
    found = case(folder)
    if found is None or folder.name in DIFFERS:
        return None
    model, x, want = found
    onnx.save(model, str(path))
    try:
        net = import_onnx(path)
    except ModelFileError as error:
        assert "\n" not in str(error)
        return "refused"
    got = net(mx.nd.array(x, dtype=x.dtype))
    got = got if isinstance(got, (list, tuple)) else [got]
    halves = np.float16 in {array.dtype.type for array in (x, *want)}
    for have, expected in zip(got, want):
        assert have.shape == expected.shape, folder.name
        np.testing.assert_allclose(have.asnumpy().astype("float64"), expected.astype("float64"), err_msg=folder.name,
                                   rtol=1e-2 if halves else 1e-5, atol=2e-3 if halves else 1e-5)
    return "same"


@pytest.mark.filterwarnings("ignore")
def test_some_of_the_cases(tmp_path):
    found = [outcome(folder, tmp_path / "case.onnx") for folder in cases()[::9]]
    assert found.count("same") >= 50 and found.count("refused") <= 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_all_of_the_cases(tmp_path):
    found = [outcome(folder, tmp_path / "case.onnx") for folder in cases()]
    assert found.count("same") >= 550 and found.count("refused") <= 200


NETWORKS = sorted(path.stem for path in (DATA / "light").glob("*.onnx"))


def with_random_weights(model):
    """The network with random numbers for the constants that stand in for its weights."""
    random = np.random.RandomState(0)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = arrays[node.input[0]]
        reach = np.prod(shape[1:]) if len(shape) > 1 else 0
        values = random.uniform(-1, 1, shape) * (3 / reach) ** 0.5 if reach else random.uniform(0.5, 1.0, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype("float32"), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def whole_network(name, folder):
    model = with_random_weights(onnx.load(str(DATA / "light" / f"{name}.onnx")))
    onnx.save(model, str(folder / "net.onnx"))
    net = import_onnx(folder / "net.onnx")
    x = np.random.RandomState(1).uniform(-1, 1, (2, *net.input_shape[1:])).astype("float32")
    want = np.concatenate([judged_by_name(model, x[index:index + 1]) for index in range(2)])
    got = net(mx.nd.array(x)).asnumpy()
    assert got.shape == want.shape and np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_a_network_of_the_zoo(tmp_path):
    whole_network("light_squeezenet", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_the_zoo(name, tmp_path):
    whole_network(name, tmp_path)
