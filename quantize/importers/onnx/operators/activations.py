# SPDX-License-Identifier: MIT
"""ONNX operators of one tensor that work on each element by itself."""

from typing import Callable, List

from mxnet.gluon import nn
from onnx import TensorProto

from quantize.importers.graph_block import LayerSpec, Step
from quantize.importers.onnx.graph import Node
from quantize.importers.refused import Refused

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32,
          TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64)
# Klambauer et al., Self-Normalizing Neural Networks, arXiv:1706.02515, as ONNX writes its defaults
_SELU_ALPHA, _SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875


def _leaky_relu(node) -> list:
    alpha = node.take("alpha", 0.01)
    if alpha < 0:  # Gluon's layer takes positive slopes only
        return node.chain(("LeakyReLU", dict(act_type="leaky", slope=alpha)))
    return node.chain(LayerSpec(nn.LeakyReLU, dict(alpha=alpha)))


def _activation(kind):
    def plan(node) -> list:
        node.take("consumed_inputs")
        return node.chain(LayerSpec(nn.Activation, dict(activation=kind)))
    return plan


def function(op: str) -> Callable[[Node], List[Step]]:
    """Plan of an operator that MXNet has under the name `op`."""
    def plan(node) -> list:
        node.take("consumed_inputs")
        return node.chain((op, {}))
    return plan


def _elu(node) -> list:
    return node.chain(LayerSpec(nn.ELU, dict(alpha=node.take("alpha", 1.0))))


def _selu(node) -> list:
    alpha, gamma = node.take("alpha", _SELU_ALPHA), node.take("gamma", _SELU_GAMMA)
    return node.chain(("LeakyReLU", dict(act_type="elu", slope=alpha)), ("_mul_scalar", dict(scalar=gamma)))


def _celu(node) -> list:
    """max(x, 0) + min(0, alpha (exp(x / alpha) - 1)): Barron, arXiv:1704.07483."""
    alpha = node.take("alpha", 1.0)
    if not alpha:
        raise Refused("alpha=0, by which it divides")
    return node.chain(("_mul_scalar", dict(scalar=1 / alpha)), ("LeakyReLU", dict(act_type="elu", slope=1.0)),
                      ("_mul_scalar", dict(scalar=alpha)))


def _gelu(node) -> list:
    """Hendrycks & Gimpel, arXiv:1606.08415; the approximation is x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if node.only("approximate", "none", "tanh") == "none":
        return node.chain(("LeakyReLU", dict(act_type="gelu")))
    x = node.value()
    square = node.helper("square", x)
    cubic = node.helper("_mul_scalar", square.outputs[0], scalar=0.044715)
    inner = node.helper("_plus_scalar", cubic.outputs[0], scalar=1.0)
    product = node.helper("elemwise_mul", inner.outputs[0], x)
    scaled = node.helper("_mul_scalar", product.outputs[0], scalar=(2 / 3.141592653589793) ** 0.5)
    tanh = node.helper("tanh", scaled.outputs[0])
    one = node.helper("_plus_scalar", tanh.outputs[0], scalar=1.0)
    gate = node.helper("_mul_scalar", one.outputs[0], scalar=0.5)
    return [square, cubic, inner, product, scaled, tanh, one, gate, node.joined("elemwise_mul", x, gate.outputs[0])]


def _mish(node) -> list:
    """x tanh(softplus(x)): Misra, arXiv:1908.08681."""
    soft = node.helper("Activation", node.value(), act_type="softrelu")
    gate = node.helper("tanh", soft.outputs[0])
    return [soft, gate, node.joined("elemwise_mul", node.value(), gate.outputs[0])]


def _swish(node) -> list:
    scaled = node.helper("_mul_scalar", node.value(), scalar=node.take("alpha", 1.0))
    gate = node.helper("sigmoid", scaled.outputs[0])
    return [scaled, gate, node.joined("elemwise_mul", node.value(), gate.outputs[0])]


def _hard_sigmoid(node) -> list:
    return node.chain(("hard_sigmoid", dict(alpha=node.take("alpha", 0.2), beta=node.take("beta", 0.5))))


def _hard_swish(node) -> list:
    gate = node.helper("hard_sigmoid", node.value(), alpha=1 / 6, beta=0.5)
    return [gate, node.joined("elemwise_mul", node.value(), gate.outputs[0])]


def _thresholded_relu(node) -> list:
    kept = node.helper("_greater_scalar", node.value(), scalar=node.take("alpha", 1.0))
    return [kept, node.joined("elemwise_mul", node.value(), kept.outputs[0])]


def round_half_even(node: Node, x: str) -> List[Step]:
    """Steps that round `x`, exact halves to the even neighbour; MXNet's own go away from zero, or down."""
    whole = node.helper("fix", x)
    rest = node.helper("elemwise_sub", x, whole.outputs[0])
    size = node.helper("abs", rest.outputs[0])
    is_half = node.helper("_equal_scalar", size.outputs[0], scalar=0.5)
    plain = node.helper("round", x)
    # x / 2 of a half ends in .25 or .75: twice its nearest whole number is the even neighbour
    half = node.helper("_mul_scalar", x, scalar=0.5)
    nearest = node.helper("round", half.outputs[0])
    even = node.helper("_mul_scalar", nearest.outputs[0], scalar=2.0)
    chosen = node.helper("where", is_half.outputs[0], even.outputs[0], plain.outputs[0])
    return [whole, rest, size, is_half, plain, half, nearest, even, chosen]


def _round(node) -> list:
    steps = round_half_even(node, node.value())
    return steps + node.alias(steps[-1].outputs[0])


def _cast(node) -> list:
    """Everything is computed in float32, so a cast to a float type changes nothing; whole numbers stay floats."""
    kind = node.take("to")
    node.take("saturate")
    if kind in FLOATS or (node.kind() not in FLOATS and kind in _WHOLE):
        return node.alias()
    if kind not in _WHOLE and kind != TensorProto.BOOL:
        raise Refused(f"to={TensorProto.DataType.Name(kind)} (supported: floats of 16 bits and more, whole numbers)")
    if kind == TensorProto.BOOL:
        return node.chain(("_not_equal_scalar", dict(scalar=0.0)))
    return node.chain(("fix", {}))


def _identity(node) -> list:
    if node.outputs[0] in node.graph.quantized.places:  # a layer that does nothing, so that something can be put there
        return node.chain(LayerSpec(nn.HybridLambda, {"function": "identity"}))
    return node.alias()


def _constant(node) -> list:
    # those that hold numbers were evaluated before
    raise Refused("no dense numeric value")


_SAME_NAME = {"Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Abs": "abs", "Neg": "negative", "Reciprocal": "reciprocal",
              "Floor": "floor", "Ceil": "ceil", "Sign": "sign", "Erf": "erf", "Not": "logical_not", "Sin": "sin",
              "Cos": "cos", "Tan": "tan", "Asin": "arcsin", "Acos": "arccos", "Atan": "arctan", "Sinh": "sinh",
              "Cosh": "cosh", "Asinh": "arcsinh", "Acosh": "arccosh", "Atanh": "arctanh"}

OPERATORS = dict(
    {name: function(op) for name, op in _SAME_NAME.items()},
    Relu=_activation("relu"), Sigmoid=_activation("sigmoid"), Tanh=_activation("tanh"),
    Softplus=_activation("softrelu"), Softsign=_activation("softsign"), LeakyRelu=_leaky_relu, Elu=_elu, Selu=_selu,
    Celu=_celu, Gelu=_gelu, Mish=_mish, Swish=_swish, HardSigmoid=_hard_sigmoid, HardSwish=_hard_swish,
    ThresholdedRelu=_thresholded_relu, Round=_round, Cast=_cast, Identity=_identity, Constant=_constant)
