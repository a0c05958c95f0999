# SPDX-License-Identifier: MIT
"""Write docs/onnx-operators.md from what happens: `python docs/tools/make_onnx_operators.py` (a slow test compares).

Every case of the standard's own test suite, which comes with the onnx library, that holds a known operator on images or
other floats is imported, run, lowered, written for ncnn and run there.
"""

import logging
import pathlib
import re
import tempfile
import warnings

import mxnet as mx
import numpy as np
import onnx
from onnx import numpy_helper

from deploy.lower import lower
from deploy.targets.ncnn import TARGET
from quantize.errors import QuantizeError
from quantize.importers.onnx import OPERATORS, import_onnx

PAGE = pathlib.Path(__file__).resolve().parent.parent / "onnx-operators.md"
CASES = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
HEAD = """# ONNX operators

`--onnx FILE` and `quantize.importers.onnx.import_onnx` read networks of operator sets 6 to 22; files of 23 to 26 are
read like 22, with a warning, and newer ones are refused in one line. Half, double and bfloat16 compute in float32.
What depends on constants and shapes alone (a weight behind a Transpose, Cast or DequantizeLinear, the shape of a
Reshape) is evaluated first, by any operator that the onnx library has. The batch of a file is always open (a
network that mixes the images of a batch keeps the one of its file), and files that want (N, H, W, C) images get
(N, C, H, W) ones from the commands.

This page is made by running things (`docs/tools/make_onnx_operators.py`):

* **in ncnn**: the operator behind a convolution of an image, lowered, written for ncnn and run there. "exact" says that
  the values are MXNet's to 1e-5; else it says why the network cannot be deployed.
* **refused**: what the importer refused of the {count} cases of the standard's own test suite that hold these operators
  on floats. All others were computed with the expected values, to 1e-5 (2e-3 for half precision).

Values agree with ONNX Runtime on random shapes, attributes and operator sets 7 to 22 as well: a property test draws
every operator. Operators that are not in the table are refused by name, all of a file's at once.

| operator | in ncnn | refused |
|---|---|---|
"""
IMAGE = (1, 4, 6, 6)
VECTOR = {"c": (4, 1, 1)}  # a constant for each channel
# operator -> (inputs, attributes, constants by name: shapes of floats, or arrays) behind an image of 4 x 6 x 6, or a
# vector of 144 for those that want one; the others take the image alone
SAMPLES = {
    "Add": ("a c", {}, VECTOR), "Sub": ("a c", {}, VECTOR), "Mul": ("a c", {}, VECTOR), "Div": ("a c", {}, VECTOR),
    "Max": ("a b", {}, {}), "Min": ("a b", {}, {}), "Sum": ("a b a", {}, {}), "Mean": ("a b", {}, {}),
    "Pow": ("b c", {}, {"c": np.float32(1.7)}), "PRelu": ("a c", {}, VECTOR), "Where": ("f a b", {}, {}),
    "And": ("f g", {}, {}), "Or": ("f g", {}, {}), "Xor": ("f g", {}, {}), "Not": ("f", {}, {}),
    "Equal": ("a b", {}, {}), "Greater": ("a b", {}, {}), "GreaterOrEqual": ("a b", {}, {}), "Less": ("a b", {}, {}),
    "LessOrEqual": ("a b", {}, {}), "Cast": ("a", {"to": 1}, {}), "Clip": ("a l h", {}, {
        "l": np.float32(-0.3), "h": np.float32(0.4)}),
    "Acosh": ("d", {}, {}), "Log": ("b", {}, {}), "Sqrt": ("b", {}, {}), "Reciprocal": ("b", {}, {}),
    "Conv": ("a w", {}, {"w": (3, 4, 3, 3)}), "ConvTranspose": ("a w", {"strides": [2, 2]}, {"w": (4, 3, 3, 3)}),
    "BatchNormalization": ("a p q r s", {}, {"p": (4,), "q": (4,), "r": (4,), "s": np.ones(4, "float32")}),
    "InstanceNormalization": ("a p q", {}, {"p": (4,), "q": (4,)}),
    "GroupNormalization": ("a p q", {"num_groups": 2}, {"p": (4,), "q": (4,)}),
    "LayerNormalization": ("a p q", {"axis": -1}, {"p": (6,), "q": (6,)}),
    "MeanVarianceNormalization": ("a", {"axes": [2, 3]}, {}), "LpNormalization": ("a", {"axis": 1}, {}),
    "LRN": ("a", {"size": 3}, {}), "Gemm": ("v w", {"transB": 1}, {"w": (5, 144)}),
    "MatMul": ("v w", {}, {"w": (144, 5)}), "MaxPool": ("a", {"kernel_shape": [3, 3], "strides": [2, 2]}, {}),
    "AveragePool": ("a", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}),
    "LpPool": ("a", {"kernel_shape": [2, 2]}, {}),
    "Concat": ("a b", {"axis": 1}, {}), "Split": ("a", {"axis": 1, "num_outputs": 2}, {}),
    "Slice": ("a i j k", {}, {"i": np.array([1, 0]), "j": np.array([5, 4]), "k": np.array([2, 3])}),
    "Gather": ("a i", {"axis": 1}, {"i": np.array([2, 1, 0])}),
    "Pad": ("a i", {}, {"i": np.array([0, 0, 1, 1, 0, 0, 2, 2])}),
    "Resize": ("a _ i", {"mode": "linear"}, {"i": np.float32([1, 1, 2, 2])}),
    "Reshape": ("a i", {}, {"i": np.array([0, 2, 72])}), "Transpose": ("a", {"perm": [0, 2, 3, 1]}, {}),
    "Squeeze": ("m i", {}, {"i": np.array([2, 3])}), "Unsqueeze": ("v i", {}, {"i": np.array([2])}),
    "ConstantOfShape": ("s", {}, {}),
    "Expand": ("m i", {}, {"i": np.array([1, 4, 6, 6])}), "Tile": ("a i", {}, {"i": np.array([1, 1, 2, 1])}),
    "DepthToSpace": ("a", {"blocksize": 2}, {}), "SpaceToDepth": ("a", {"blocksize": 2}, {}),
    "ArgMax": ("a", {"axis": 1}, {}), "ArgMin": ("a", {"axis": 1}, {}), "TopK": ("a i", {"axis": 1}, {
        "i": np.array([2])}),
    "QuantizeLinear": ("a i j", {}, {"i": np.float32(0.1), "j": np.int8(0)}), "DequantizeLinear": ("q i", {}, {
        "i": np.float32(0.1)}),
    "Softmax": ("v", {}, {}), "LogSoftmax": ("v", {}, {}), "ReduceSum": ("a i", {}, {"i": np.array([2, 3])}),
}
REDUCED = {"i": np.array([2, 3])}
NEWER, OLD = 24, {"Upsample": 7}


def page() -> str:
    """The text of the page."""
    refused = {operator: set() for operator in OPERATORS if operator != "Constant"}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        cases = [case for case in map(read_case, sorted(CASES.glob("test_*"))) if case is not None]
        for model, x, outputs in cases:
            refused[model.graph.node[0].op_type].add(refusal(model, x, outputs, pathlib.Path(folder)))
        rows = [f"| {operator} | {in_ncnn(operator, pathlib.Path(folder))} | {'; '.join(sorted(found - {''}))} |"
                for operator, found in sorted(refused.items())]
        logging.disable(logging.NOTSET)
    return HEAD.format(count=len(cases)) + "\n".join(rows) + "\n"


def sample(operator):
    """A network with one use of the operator behind a convolution."""
    random = np.random.RandomState(0)
    names, attributes, constants = SAMPLES.get(operator, ("a", {}, {}))
    if operator.startswith("Reduce") and operator not in SAMPLES:
        names, constants = ("b i" if "Log" in operator else "a i"), REDUCED
    if operator == "Upsample":
        attributes = {"scales": [1.0, 1.0, 2.0, 2.0]}
    add = onnx.helper.make_node
    helpers = {"b": [add("Abs", ["a"], ["b_0"]), add("Add", ["b_0", "one"], ["b"])],
               "d": [add("Exp", ["a"], ["d_0"]), add("Add", ["d_0", "one"], ["d"])],
               "f": [add("Greater", ["a", "one"], ["f"])], "g": [add("Less", ["a", "one"], ["g"])],
               "m": [add("GlobalAveragePool", ["a"], ["m"])], "q": [add("QuantizeLinear", ["a", "one"], ["q"])],
               "s": [add("Shape", ["a"], ["s"])], "v": [add("Flatten", ["a"], ["v"])]}
    nodes = [add("Conv", ["x", "weight"], ["a"], pads=[1, 1, 1, 1])]
    for name in dict.fromkeys(names.split()):
        nodes += helpers.get(name, [])
    outputs = ["y", "z"] if operator in ("Split", "TopK") else ["y"]
    made = ["k"] if operator == "ConstantOfShape" else outputs
    nodes.append(add(operator, ["" if name == "_" else name for name in names.split()], made, **attributes))
    if made != outputs:  # by itself it would depend on no image
        nodes.append(add("Add", ["a", *made], outputs))
    arrays = {name: random.uniform(0.2, 1, shape).astype("float32") if isinstance(shape, tuple) else np.asarray(shape)
              for name, shape in constants.items()}
    arrays.update(weight=random.uniform(-0.3, 0.3, (4, 3, 3, 3)).astype("float32"), one=np.float32(1))
    graph = onnx.helper.make_graph(
        nodes, "sample", [onnx.helper.make_tensor_value_info("x", 1, ["N", 3, 6, 6])],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    opset = OLD.get(operator, NEWER if operator == "Swish" else 21)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def in_ncnn(operator, folder) -> str:
    """"exact", or why not."""
    path = folder / "sample.onnx"
    onnx.save(sample(operator), str(path))
    net = import_onnx(path)
    x = np.random.RandomState(1).uniform(-0.4, 0.4, (2, 3, 6, 6)).astype("float32")
    want = net(mx.nd.array(x))
    want = [each.asnumpy() for each in (want if isinstance(want, (list, tuple)) else [want])]
    try:
        (folder / "out").mkdir(exist_ok=True)
        TARGET.write(lower(net, x.shape[1:], quantized=False), str(folder / "out"))
        have = TARGET.run(str(folder / "out"), x)
    except QuantizeError as error:
        return re.sub(r" \([^()]*\)(?=;|$)", "", str(error).split("deployed: ")[-1]).split("; ")[0].replace("|", "\\|")
    # a pooling of whole planes at the end gives (channels,) there
    have = [each.reshape(like.shape) if each.size == like.size else each for each, like in zip(have, want)]
    return "exact" if all(map(same, have, want)) else "computed differently"


def read_case(path):
    """(model, first input, outputs) of a case with one known node on floats, or None."""
    model = onnx.load(str(path / "model.onnx"))
    data = path / "test_data_set_0"
    if len(model.graph.node) != 1 or model.graph.node[0].op_type not in OPERATORS or not model.graph.input:
        return None
    try:
        arrays = [read_tensor(data / f"input_{index}.pb") for index in range(len(model.graph.input))]
        outputs = [read_tensor(data / f"output_{index}.pb") for index in range(len(model.graph.output))]
        rest = [numpy_helper.from_array(array, value.name)
                for value, array in list(zip(model.graph.input, arrays))[1:]]
    except (ValueError, OSError):
        return None
    if arrays[0].dtype.kind != "f" or any(array.dtype.kind not in "fiub" or not array.size for array in
                                          (*arrays, *outputs)) or "BFLOAT16" in path.name:
        return None
    model.graph.initializer.extend(rest)
    del model.graph.input[1:]
    return model, arrays[0], outputs


def read_tensor(path):
    """The array in a file of the suite."""
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def refusal(model, x, outputs, folder) -> str:
    """Why a case is refused, or an empty text."""
    path = folder / "case.onnx"
    onnx.save(model, str(path))
    try:
        net = import_onnx(path)
    except QuantizeError as error:
        return reason(str(error), model)
    got = net(mx.nd.array(x, dtype=x.dtype))
    got = [each.asnumpy() for each in (got if isinstance(got, (list, tuple)) else [got])]
    return "" if all(map(same, got, outputs)) else "a case on which ONNX Runtime and the standard differ"


def same(have, want) -> bool:
    """Whether shapes and values agree."""
    halves = np.float16 in (have.dtype, want.dtype)
    return have.shape == want.shape and np.allclose(have.astype("float64"), want.astype("float64"), equal_nan=True,
                                                    rtol=1e-2 if halves else 1e-5, atol=2e-3 if halves else 1e-5)


def reason(text, model) -> str:
    """The part of a message that says why, without the names of one case."""
    text = re.sub(r"^.*(cannot be imported|\.onnx): ", "", text)
    text = re.sub(r" \(node [^)]*\)$", "", text.splitlines()[0])
    text = re.sub(rf"^{model.graph.node[0].op_type}: ", "", text)
    text = re.sub(r"into \d+ parts", "into parts", re.sub(r"of shape \([^)]*\)", "of another shape", text))
    text = re.sub(r"to=\w+", "to 8-bit floats, 4-bit numbers or texts", re.sub(r"'[^']*' is read", "is read", text))
    return re.sub(r"=\[[^]]*\]", "", text).replace("|", "\\|").replace(" \\(", " (")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
