# SPDX-License-Identifier: MIT
"""Forms that exporters give to files: what is named, left out, listed or written in another way."""

import mxnet as mx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantize.importers.symbol import import_symbol
from tests.quantize.importers.onnx.judge import arr, check, close, import_model, ints, judged, make_model, node

W = arr(4, 3, 3, 3, seed=1)
X = arr(2, 3, 8, 8, seed=2)
CONV = [node("Conv", "x w", "c"), node("Relu", "c")]


def without_shape(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")


def standard_domain(model):
    for proto in model.graph.node:
        proto.domain = "ai.onnx"


def standard_domain_twice(model):
    model.graph.node[0].domain = "ai.onnx"
    model.opset_import.insert(0, onnx.helper.make_opsetid("com.microsoft", 1))


def no_names(model):
    for proto in model.graph.node:
        proto.name = ""


def listed_as_inputs(model):
    model.ir_version = 3
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("w", 1, W.shape))


def wrong_shapes_inside(model):
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("c", 1, [1, 4, 5, 5]))


def unpacked(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend(W.ravel())


def no_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1


@pytest.mark.parametrize("change", [without_shape, standard_domain, standard_domain_twice, no_names, listed_as_inputs,
                                    wrong_shapes_inside, unpacked, no_batch], ids=lambda change: change.__name__)
def test_the_same_network_said_otherwise(change, tmp_path):
    model = make_model(CONV, ["N", 3, 8, 8], dict(w=W), opset=8)
    want = check(make_model(CONV, ["N", 3, 8, 8], dict(w=W), opset=8), tmp_path, X)
    change(model)
    net = check(model, tmp_path, X)
    assert [type(child) for child in net._children.values()] == [type(child) for child in want._children.values()]


def constant(name, value):
    return node("Constant", "", name, value=numpy_helper.from_array(np.asarray(value)))


FORMS = {
    "weights and bias as Constant nodes": ([constant("w", W), constant("b", arr(4)), node("Conv", "x w b")], {}),
    "numbers as attributes of Constant": (
        [node("Constant", "", "half", value_float=0.5), node("Constant", "", "row", value_floats=[0.5] * 8),
         node("Constant", "", "two", value_int=2), node("Cast", "two", "two_", to=1), node("Add", "x half", "a"),
         node("Mul", "a row", "b"), node("Sub", "b two_")], {}),
    "a bias left out by its empty name": ([node("Conv", "x w _")], dict(w=W)),
    "identities": ([node("Identity", "w", "v"), node("Identity", "x", "a"), node("Conv", "a v", "b"),
                    node("Identity", "b")], dict(w=W)),
    "casts that change nothing": ([node("Cast", "x", "a", to=1), node("Conv", "a w", "b"),
                                   node("Cast", "b", "c", to=11), node("Cast", "c", to=1)], dict(w=W)),
    "weights of two layers shared": ([node("Conv", "x w", "a", pads=[1] * 4), node("Conv", "a w", "b", pads=[1] * 4),
                                      node("Add", "a b")], dict(w=arr(3, 3, 3, 3))),
    "one array as gamma, beta and mean": ([node("BatchNormalization", "x s s s v")],
                                          dict(s=arr(3), v=arr(3, seed=1) ** 2 + np.float32(0.1))),
    "a weight that is read as a number, too": ([node("Conv", "x w", "c"), node("ReduceSum", "w", "s", keepdims=0),
                                                node("Add", "c s")], dict(w=W)),
    "only the middle of a split is read": ([node("Split", "x", "p q r", axis=1), node("Relu", "q")], {}),
    "a split without a name for a part": ([node("Split", "x", "p _ r", axis=1), node("Add", "p r")], {}),
    "the pads of a convolution in a Pad": ([node("Pad", "x p", "a"), node("Conv", "a w")],
                                           dict(p=ints(0, 0, 1, 2, 0, 0, 2, 1), w=W)),
    "channels turned round": ([node("Slice", "x b e a s", "r"), node("Conv", "r w")],
                              dict(b=ints(-1), e=ints(-4), a=ints(1), s=ints(-1), w=W)),
    "a ReLU6 of Max and Min": ([node("Max", "x low", "a"), node("Min", "a high")],
                               dict(low=np.float32(0), high=np.float32(0.6))),
    "an if that constants decide": ([node("Shape", "x", "s"), node("Gather", "s at", "d"),
                                     node("Equal", "d one", "yes"),
                                     onnx.helper.make_node("If", ["yes"], ["y"], then_branch=onnx.helper.make_graph(
                                         [node("Neg", "x", "t")], "t", [], [
                                             onnx.helper.make_tensor_value_info("t", 1, None)]),
                                         else_branch=onnx.helper.make_graph([node("Abs", "x", "e")], "e", [], [
                                             onnx.helper.make_tensor_value_info("e", 1, None)]))],
                                    dict(at=np.int64(3), one=np.int64(1))),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_forms(form, tmp_path):
    nodes, constants = FORMS[form]
    check(make_model(nodes, ["N", 3, 8, 8], constants), tmp_path, X)


def test_all_values_of_a_batch_get_their_shape_again(tmp_path):
    """PyTorch's as_strided, in a file that was traced with one image: a Gather of all values in their order."""
    nodes = [node("GlobalAveragePool", "x", "g"), node("Reshape", "g flat", "f"),
             node("Gather", "f places", "s", axis=0), node("Reshape", "s rows", "r"), node("Gemm", "r v", transB=1)]
    constants = dict(flat=ints(-1), places=np.arange(3).reshape(1, 3, 1, 1), rows=ints(1, 3), v=arr(5, 3))
    model = make_model(nodes, [1, 3, 8, 8], constants)
    want = np.concatenate([judged(model, X[index:index + 1])[0] for index in range(len(X))])
    close(import_model(model, tmp_path)(mx.nd.array(X)), [want])


def test_a_negative_axis_of_concat_before_opset_11(tmp_path):
    """PyTorch wrote them; ONNX Runtime reads them, onnx's inference of shapes does not."""
    nodes = [node("Relu", "x", "r"), node("Concat", "x r", "c", axis=-3), node("Reshape", "c s")]
    check(make_model(nodes, ["N", 3, 8, 8], dict(s=ints(0, -1)), opset=9), tmp_path, X)


@pytest.mark.parametrize("between", [None, "Relu", "Sigmoid"])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_softmax_behind_scores_of_which_some_are_single(op, between, tmp_path):
    """oneDNN lays (N, 1) and (N, n) out in its own way, and its softmax ends the process then (MXNet 1.9.1)."""
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f one", "o", transB=1), node("Gemm", "f many", "m", transB=1),
             node("Concat", "o m o", "c", axis=1)]
    nodes += [node(between, "c", "b"), node(op, "b", axis=1)] if between else [node(op, "c", axis=1)]
    model = make_model(nodes, ["N", 3, 8, 8], dict(one=arr(1, 192, seed=3), many=arr(5, 192, seed=4)))
    net = import_model(model, tmp_path)
    assert '"temperature": "1.0"' in net(mx.sym.var("data")).tojson()  # else what follows ends this process
    check(model, tmp_path, X).export(str(tmp_path / "net"))
    again = import_symbol(tmp_path / "net-symbol.json", tmp_path / "net-0000.params")
    close(again(mx.nd.array(X)), judged(model, X))


def test_shapes_are_known_behind_a_normalization_with_zeros(tmp_path):
    """A mean of 0, as of a channel that is dead, is no step of a Slice."""
    nodes = [node("Conv", "x w", "c"), node("BatchNormalization", "c one none none one", "n"), node("Shape", "n", "s"),
             node("Reshape", "n flat", "f"), node("Reshape", "f s")]
    constants = dict(w=W, one=np.ones(4, np.float32), none=np.zeros(4, np.float32), flat=ints(0, 2, -1))
    check(make_model(nodes, ["N", 3, 8, 8], constants), tmp_path, X)


def test_sizes_are_known_behind_a_resize_that_says_it_stretches(tmp_path):
    """PyTorch's newer exporter: the batch of the sizes is open, the ways of doing it are all written out."""
    nodes = [node("Shape", "x", "s", start=0, end=1), node("Concat", "s rest", "t", axis=0),
             node("Resize", "x none none t", "r", mode="nearest", coordinate_transformation_mode="asymmetric",
                  nearest_mode="floor", keep_aspect_ratio_policy="stretch"),
             node("Split", "r", "a b", axis=3, num_outputs=2), node("Add", "a b")]
    nodes[2].input[1] = nodes[2].input[2] = ""
    check(make_model(nodes, ["N", 3, 8, 8], dict(rest=ints(3, 16, 16)), opset=18), tmp_path, X)


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (14, 1)])
def test_a_resize_to_one_element(mode, size, tmp_path):
    nodes = [node("Resize", "x _ _ s", mode="linear", coordinate_transformation_mode=mode)]
    check(make_model(nodes, [1, 2, 7, 5], dict(s=ints(1, 2, *size))), tmp_path, arr(1, 2, 7, 5))


@pytest.mark.parametrize("nodes", [
    [node("AveragePool", "c", "y", kernel_shape=[3, 3], pads=[0, 0, 1, 1], count_include_pad=0)],
    [node("AveragePool", "c", "y", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2])],
    [node("Slice", "c starts ends axes", "y")]], ids=["pads", "same", "slice"])
def test_channels_that_onednn_holds_in_blocks(nodes, tmp_path):
    """Cut with MXNet's `slice`, channels of a multiple of 8 that is none of 16 ended the process."""
    constants = {"w": arr(8, 3, 3, 3, seed=1)}
    if nodes[0].op_type == "Slice":
        constants.update(starts=ints(1, 2), ends=ints(5, -1), axes=ints(1, 2))
    model = make_model([node("Conv", "x w", "c"), *nodes], ["N", 3, 9, 9], constants, 13)
    check(model, tmp_path, arr(2, 3, 9, 9, seed=2))
