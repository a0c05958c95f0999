# SPDX-License-Identifier: MIT
"""Files with (N, H, W, C) tensors: Transposes meet and vanish, and images may be fed either way."""

import json

import mxnet as mx
import numpy as np
import pytest
from onnx import TensorProto

from tests.quantize.importers.onnx.judge import arr, as_arrays, check, import_model, ints, judged, make_model, node

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]
W = arr(4, 3, 3, 3)


def conv(x, y, weight="w", name="conv"):
    """What tf2onnx writes for one convolution of (N, H, W, C)."""
    return [node("Transpose", x, x + "_in", perm=FIRST),
            node("Conv", f"{x}_in {weight}", y + "_out", name=name, pads=[1, 1, 1, 1]),
            node("Transpose", y + "_out", y, perm=LAST)]


def operators(net):
    """Operators of the traced network, without variables."""
    graph = json.loads(net(mx.sym.var("x")).tojson())
    return [entry["op"] for entry in graph["nodes"] if entry["op"] != "null"]


BODIES = {
    "relu": [node("Relu", "a", "y")],
    "bias": [node("Add", "a b", "y")],
    "bias_from_left": [node("Sub", "b a", "y")],
    "row": [node("Mul", "a row", "y")],
    "column": [node("Mul", "a column", "y")],
    "clip": [node("Clip", "a lo hi", "y")],
    "residual": [node("Relu", "a", "r"), node("Sigmoid", "a", "s"), node("Add", "r s", "y")],
    "concat": [node("Relu", "a", "r"), node("Concat", "a r", "y", axis=3)],
    "concat_from_end": [node("Relu", "a", "r"), node("Concat", "a r", "y", axis=-2)],
    "pad": [node("Pad", "a p", "y")],
    "mean": [node("ReduceMean", "a", "y", axes=[1, 2], keepdims=0)],
    "mean_kept": [node("ReduceMean", "a", "y", axes=[1, 2])],
    "mean_of_channels": [node("ReduceMean", "a", "y", axes=[3], keepdims=0)],
    "max_of_rows": [node("ReduceMax", "a", "y", axes=[1], keepdims=0)],
    "sum_by_input": [node("ReduceSum", "a axes", "y", keepdims=0)],
    "softmax": [node("Softmax", "a", "y", axis=-1)],
    "prelu": [node("PRelu", "a b", "y")],
    "flatten": [node("Reshape", "a flat", "y")],
    "split": [node("Split", "a", "y z", axis=3)],
    "squeeze": [node("ReduceMax", "a", "m", axes=[1, 2]), node("Squeeze", "m axes", "y")],
    "gate": [node("ReduceMean", "a", "m", axes=[1, 2]), node("Sigmoid", "m", "s"), node("Mul", "a s", "y")],
    "two_readers": [*conv("a", "c", "v", "second"), node("Add", "a c", "d"), node("Relu", "d", "y")],
}
CONSTANTS = dict(w=W, v=arr(4, 4, 3, 3), b=arr(4), row=arr(6, 1, 1), column=arr(1, 7, 1),
                 p=ints(0, 1, 2, 0, 0, 0, 1, 3),
                 p2=ints(0, 1, 2, 0, 0, 0, 1, 0),
                 axes=ints(1, 2), flat=ints(-1, 6 * 7 * 4), lo=np.float32(-0.5), hi=np.float32(0.5))


@pytest.mark.parametrize("body", sorted(BODIES))
@pytest.mark.parametrize("shape", [["N", 6, 7, 3], [2, 6, 7, 3], ["N", "H", "W", 3]])
def test_channels_last(body, shape, tmp_path):
    model = make_model(conv("x", "a") + BODIES[body], shape, CONSTANTS)
    x = arr(2, 6, 7, 3, seed=3)
    assert check(model, tmp_path, x).layout == "NHWC"
    net = import_model(model, tmp_path, channels_first=True)
    assert net.layout == "NCHW" and net.input_shape == (None if shape[0] == "N" else 2, 3, *(
        None if isinstance(size, str) else size for size in shape[1:3]))
    np.testing.assert_allclose(as_arrays(net(mx.nd.array(x.transpose(FIRST))))[0], judged(model, x)[0], rtol=1e-5,
                               atol=1e-5)
    assert operators(net).count("transpose") <= 1
    if body in ("mean", "mean_of_channels", "max_of_rows", "sum_by_input", "squeeze"):
        assert operators(net).count("transpose") == 0 + (body == "max_of_rows")


def test_a_network_of_channels_last_has_no_transpose_left(tmp_path):
    nodes = [node("Sub", "x mean", "m"), node("Mul", "m scale", "s"), *conv("s", "a"), node("Relu", "a", "r"),
             node("Pad", "r p2", "q"), *conv("q", "c", "v", "second"), node("Add", "c b", "d"),
             node("ReduceMean", "d", "g", axes=[1, 2], keepdims=0), node("MatMul", "g fc")]
    model = make_model(nodes, ["N", 6, 7, 3], dict(CONSTANTS, fc=arr(4, 5), mean=arr(3), scale=np.float32(0.3)))
    net = import_model(model, tmp_path, channels_first=True)
    assert "transpose" not in operators(net)
    assert set(net._children) == {"conv", "second", "the_Relu", "the_MatMul"}
    x = arr(3, 6, 7, 3)
    got = net(mx.nd.array(x.transpose(FIRST))).asnumpy()
    np.testing.assert_allclose(got, judged(model, x)[0], rtol=1e-5, atol=1e-5)


def test_files_of_channels_first_are_left_alone(tmp_path):
    model = make_model([node("Conv", "x w", "c"), node("Transpose", "c", perm=LAST)], ["N", 3, 6, 6], dict(w=W))
    assert import_model(model, tmp_path, channels_first=True).input_shape == (None, 3, 6, 6)
    assert check(model, tmp_path, arr(2, 3, 6, 6)).layout == "NCHW"


def test_transposes_that_do_not_meet_are_kept(tmp_path):
    nodes = [node("Reshape", "x s", "v"), node("Transpose", "v", "t", perm=[0, 2, 1, 3, 4]), node("Reshape", "t u")]
    net = check(make_model(nodes, ["N", 6, 4, 5], dict(s=ints(0, 2, 3, 4, 5), u=ints(-1, 6, 4, 5))), tmp_path,
                arr(2, 6, 4, 5))
    assert operators(net).count("transpose") == 1
    wide = [node("Transpose", "x", "t", perm=[1, 0, 2, 3]), node("Relu", "t")]
    check(make_model(wide, ["N", 6, 4, 5]), tmp_path, arr(2, 6, 4, 5))


@pytest.mark.parametrize("target", [[-1, 1, 6, 7], [0, 1, 6, 7]])
def test_a_reshape_of_one_channel_is_a_transpose(target, tmp_path):
    """tf2onnx writes one for grey images, and computes with whole numbers before it."""
    nodes = [node("Cast", "x", "f", to=1), node("Div", "f scale", "s"), node("Reshape", "s first", "i"),
             node("Conv", "i w1", "c"), node("ReduceMean", "c", axes=[2, 3], keepdims=0)]
    model = make_model(nodes, ["N", 6, 7, 1], dict(w1=arr(4, 1, 3, 3), scale=np.float32(255), first=ints(*target)),
                       kind=TensorProto.UINT8)
    x = np.random.RandomState(0).randint(0, 256, (2, 6, 7, 1)).astype("uint8")
    assert check(model, tmp_path, x).layout == "NHWC"
    net = import_model(model, tmp_path, channels_first=True)
    assert net.input_shape == (None, 1, 6, 7) and not {"transpose", "Reshape"} & set(operators(net))
    got = net(mx.nd.array(x.transpose(FIRST))).asnumpy()
    np.testing.assert_allclose(got, judged(model, x)[0], rtol=1e-5, atol=1e-5)
