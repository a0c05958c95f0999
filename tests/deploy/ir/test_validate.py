# SPDX-License-Identifier: MIT
"""What is no model is named, all of it at once; shapes that are inferred are those of the engine."""

import dataclasses
import re

import numpy as np
import pytest

from deploy import ir
from deploy.ir.validate import misfit, problems, validate
from quantize.errors import DeployError
from tests.deploy.ir.models import every_node, floats, model_of

ZEROS = np.zeros((4, 3, 3, 3), np.float32)
CODES = ir.Quantization(ir.Grid(0.5), ZEROS.astype(np.int8), np.ones(4, np.float32))


def convolution(**options):
    return ir.Convolution("c", ("x",), ("y",), "features.0", **dict(dict(weight=ZEROS), **options))


def of(node, shape=(3, 6, 6), out=(4, 4, 4)):
    """A model of one node whose shapes are given, right or wrong."""
    shapes = dict({name: shape for name in node.inputs}, **{name: out for name in node.outputs})
    return ir.Model(node.inputs, node.outputs, (node,), shapes)


def test_a_valid_model_has_no_problems():
    assert problems(every_node()) == []
    validate(every_node())
    assert problems(of(convolution(quantization=CODES, bias=np.zeros(4, np.float32)))) == []


WRONG = [
    (convolution(stride=(0, 1)), "is not positive"), (convolution(pads=(0, -1, 0, 0)), "negative"),
    (convolution(groups=2), "does not fit 3 channels"), (convolution(weight=ZEROS[0]), "needs 4 axes"),
    (convolution(bias=np.zeros(3, np.float32)), r"bias has the shape \(3,\), but needs \(4,\)"),
    (convolution(dilation=(3, 1)), "larger than its padded input"),
    (convolution(pads=(1, 1, 1, 1)), r"has the shape \(4, 6, 6\)"),
    (convolution(weight=ZEROS.astype(np.float64)), "array of float64"), (convolution(weight=None), "weight is None"),
    (convolution(weight=ZEROS.astype(np.int8)), "weight is not an array of float32"),
    (convolution(bias=np.float32([1, 2, np.inf, 3])), "bias holds values that are not finite"),
    (convolution(stride=2), "stride is 2, not tuple"), (convolution(groups=True), "groups is True, not int"),
    (convolution(pad_value=np.nan), "pad_value is nan"),
    (convolution(activation=ir.Activation("relu", (), ())), "not Function"),
    (convolution(activation=ir.Function("clip", (0.0,))), "clip has 1 parameters, not 2"),
    (convolution(activation=ir.Function("clip", (6.0, 0.0))), "clip between"),
    (convolution(activation=ir.Function("maxout")), "unknown activation function 'maxout'"),
    (convolution(quantization=dataclasses.replace(CODES, input=ir.Grid(0.1))), "no positive float32"),
    (convolution(quantization=dataclasses.replace(CODES, input=ir.Grid(-0.5))), "no positive float32"),
    (convolution(quantization=dataclasses.replace(CODES, input=ir.Grid(0.5, 7, 0, 5))), "are no grid"),
    (convolution(quantization=dataclasses.replace(CODES, weight_qmax=128)), "not int16 of"),
    (convolution(quantization=dataclasses.replace(CODES, weight_q=CODES.weight_q.astype(np.int16), weight_qmax=256)),
     r"go beyond 256 \(255 at most"),
    (convolution(quantization=dataclasses.replace(CODES, weight_q=CODES.weight_q + np.int8(-128))), "go beyond 127"),
    (convolution(quantization=dataclasses.replace(CODES, weight_q=CODES.weight_q[:2])), "not int8 of"),
    (convolution(quantization=dataclasses.replace(CODES, weight_scale=np.float32([1, 0, 1, 1]))),
     "one positive float32"),
    (ir.Pooling("p", ("x",), ("y",), kind="sum"), "unknown kind of pooling"),
    (ir.Pooling("p", ("x",), ("y",), kernel=(2, 2), pads=(2, 0, 0, 0)), "not smaller than the kernel"),
    (ir.Pooling("p", ("x",), ("y",), kernel=(7, 7)), "larger than its padded input"),
    (ir.Pooling("p", ("x",), ("y",), kernel=(1, 1), stride=(4, 4), ceil=True), "outside the input"),
    (ir.Elementwise("e", ("x", "y"), ("z",), op="sup"), "unknown operation"),
    (ir.Elementwise("e", ("x",), ("y",)), "add of 1"),
    (ir.Elementwise("e", ("x", "x", "x"), ("y",), op="sub"), "sub of 3"),
    (ir.ScalarOp("s", ("x",), ("y",), op="sup"), "unknown operation"),
    (ir.Activation("a", ("x", "x"), ("y",), function=ir.Function("relu")), "reads 2 blobs"),
    (ir.Activation("a", ("x",), ("y", "z"), function=ir.Function("relu")), "writes 2 blobs"),
    (ir.Concat("c", ("x",), ("y",), axis=3), "axis 3"), (ir.Concat("c", ("x",), ("y",), axis=-1), "axis -1"),
    (ir.Slice("s", ("x",), ("y",), sizes=(1, 2)), "cannot be cut"), (ir.Slice("s", ("x",), ("y",)), "cannot be cut"),
    (ir.Crop("c", ("x",), ("y",), begin=(0, 0, 0), end=(3, 6, 7)), "has no part"),
    (ir.Reshape("r", ("x",), ("y",), shape=(-1, 3)), "cannot take the shape"),
    (ir.Permute("p", ("x",), ("y",), order=(0, 0, 1)), "is no order"),
    (ir.Padding("p", ("x",), ("y",), mode="wrap"), "unknown mode"),
    (ir.Padding("p", ("x",), ("y",), mode="reflect", pads=(6, 0, 0, 0)), "reflect more"),
    (ir.Resize("r", ("x",), ("y",), mode="cubic"), "unknown mode"),
    (ir.Resize("r", ("x",), ("y",), size=(0, 1)), "not positive"),
    (ir.Reduce("r", ("x",), ("y",), axes=(0, 0)), "repeated"),
    (ir.Reduce("r", ("x",), ("y",), axes=(0, 1, 2)), "no axis is left"),
    (ir.Softmax("s", ("x",), ("y",), axis=3), "axis 3"),
    (ir.PReLU("p", ("x",), ("y",), slope=np.zeros(2, np.float32)), "slopes"),
    (ir.Affine("a", ("x",), ("y",), scale=np.zeros(4, np.float32)), "scale has the shape"),
    (ir.InnerProduct("i", ("x",), ("y",), weight=np.zeros((2, 9), np.float32)), "does not fit 108 inputs"),
    (ir.Deconvolution("d", ("x",), ("y",), weight=ZEROS), "does not fit 3 channels"),
]


@pytest.mark.parametrize("node, message", WRONG)
def test_what_does_not_fit_is_named(node, message):
    found = problems(of(node))
    assert len(found) == 1
    with pytest.raises(DeployError, match=message) as error:
        validate(of(node))
    assert re.search(f"features.0: |Convolution 'c': |^{node.name}: ", str(error.value), re.MULTILINE)


def test_all_problems_come_together():
    model = every_node()
    nodes = list(model.nodes)
    nodes[0] = dataclasses.replace(nodes[0], groups=5)
    nodes[3] = dataclasses.replace(nodes[3], sizes=(1, 4))
    nodes[5] = dataclasses.replace(nodes[5], name="conv")
    nodes[7] = dataclasses.replace(nodes[7], name="p relu")
    found = "\n".join(problems(dataclasses.replace(model, nodes=tuple(nodes), outputs=("softmax", "more"))))
    for text in ("features.0: a weight", "slice: a blob", "conv: 2 nodes have this name", "'p relu'", "output more"):
        assert text in found


@pytest.mark.parametrize("change, message", [
    (dict(inputs=()), "needs inputs"), (dict(outputs=()), "needs inputs, outputs"), (dict(nodes=()), "and nodes"),
    (dict(inputs=("image",)), "input image: its shape is missing"), (dict(metadata={"a": 1}), "must be text"),
    (dict(shapes={}), "shape is missing"), (dict(nodes=("x",)), "is no operation"),
    (dict(shapes={"data": (6, 9, 8), "two words": (1,)}), "one word"),
    (dict(shapes={"data": (6, 0, 8)}), "is no shape"), (dict(shapes={"data": ()}), "is no shape"),
    (dict(shapes={"data": (2 ** 20, 2 ** 20)}), "is no shape"),
])
def test_models_that_are_none(change, message):
    with pytest.raises(DeployError, match=message):
        validate(dataclasses.replace(every_node(), **change))


def test_order_and_names_of_blobs():
    relu = ir.Function("relu")
    first = ir.Activation("a", ("x",), ("a",), function=relu)
    second = ir.Activation("b", ("a",), ("b",), function=relu)
    model = model_of([first, second], x=(3,))
    assert "reads a, which no earlier node writes" in problems(dataclasses.replace(model, nodes=(second, first)))[0]
    again = dataclasses.replace(second, outputs=("a",))
    assert "writes a, which is written already" in problems(dataclasses.replace(model, nodes=(first, again)))[0]
    over = dataclasses.replace(second, outputs=("x",))
    assert "writes x, which is written already" in problems(dataclasses.replace(model, nodes=(first, over)))[0]
    unread = dict(model.shapes, c=(3,))
    assert problems(dataclasses.replace(model, shapes=unread)) == ["blob c: it has a shape, but no node writes it"]


def test_types_of_fields():
    assert misfit(np.float32(0.5), float) is None and misfit(3, float) is None and misfit(np.int64(3), int) is None
    assert misfit(True, float) == "is True, not float"
    assert misfit(0.5, int) == "is 0.5, not int"
    assert "float32 does not hold" in misfit(10 ** 400, float)
    assert misfit(floats(np.random.RandomState(0), 2, 2), np.ndarray) is None
    assert misfit([1], np.ndarray) == "is [1], not ndarray"


def test_an_error_lists_no_more_than_a_screen_of_problems():
    nodes = tuple(dataclasses.replace(convolution(stride=(0, 1)), name=f"c{n}", path="p" * 5000, outputs=(f"y{n}",))
                  for n in range(500))
    model = ir.Model(("x",), ("y0",), nodes, {"x": (3, 6, 6), **{f"y{n}": (4, 4, 4) for n in range(500)}})
    with pytest.raises(DeployError) as caught:
        validate(model)
    lines = str(caught.value).splitlines()
    assert len(problems(model)) >= 500 and len(lines) == 22 and max(map(len, lines)) <= 300
    assert lines[-1] == f"and {len(problems(model)) - 20} more"
