# SPDX-License-Identifier: MIT
"""How nodes with weights become ncnn layers, in integers and in float32."""

import numpy as np

from deploy import ir
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.constraints import NO_WINOGRAD, by_winograd, of_node
from deploy.targets.ncnn.layers import LARGEST, converter, pair, sides
from deploy.targets.ncnn.scales import multipliers

# kind of function -> (activation type, its parameters) that ncnn computes within a layer
FUSED = {
    "relu": (1, lambda: None),
    "leaky_relu": (2, lambda slope: (slope,)),
    "clip": (3, lambda low, high: (max(low, -LARGEST), min(high, LARGEST))),
    "sigmoid": (4, lambda: None),
    "hard_swish": (6, lambda alpha, beta: (alpha, beta)),
}


def _fused(function):
    """Parameters of an activation within a layer."""
    if function is None:
        return {}
    kind, parameters = FUSED[function.kind]
    values = parameters(*function.parameters)
    return {9: kind, 10: values and tuple(float(value) for value in values)}


def _finish(node, build, make):
    """Make the layer with its activation, or the layer and another one for an activation that ncnn cannot fuse."""
    function = node.activation
    if function is None or function.kind in FUSED:
        make(node.outputs[0], _fused(function))
    else:
        linear = node.outputs[0] + "_linear"
        make(linear, {})
        build.add_function(node.name + "_activation", linear, node.outputs[0], function)


def _geometry(node, weight):
    """Parameters that convolutions and deconvolutions share."""
    return {**pair(weight.shape[2:], 1, 11), **pair(node.dilation, 2, 12, 1), **pair(node.stride, 3, 13, 1),
            **sides(node.pads, 4, 14, 15, 16)}


def _weights(node, integers):
    """The fields of the .bin."""
    if not integers:
        return {"weight": node.weight, "bias": node.bias}
    weight_scale, input_scale = multipliers(node)
    return {"weight": np.asarray(node.quantization.weight_q, np.int8), "bias": node.bias, "weight_scale": weight_scale,
            "input_scale": input_scale}


def _flag(array):
    """The parameter that says whether a layer has an array; 0 is what ncnn assumes."""
    return None if array is None else 1


@converter(ir.Convolution)
def _convolution(node, build):
    integers = build.integers and node.quantization is not None
    pad = float(node.pad_value)
    if integers and pad:  # ncnn pads the integers
        pad = float(NcnnArithmetic().quantize([pad], node.quantization.input)[0])
    parameters = {0: len(node.weight), **_geometry(node, node.weight), 18: pad or None, 5: _flag(node.bias),
                  6: node.weight.size, 7: None if node.groups == 1 else node.groups,
                  8: (2 if node.groups == 1 else 1) if integers else None}
    # Winograd may overflow with weights of more levels than ncnn's own tools give these layers
    direct = integers and of_node(node).winograd and not by_winograd(node)
    weights = _weights(node, integers)

    def make(target, activation):
        build.add("Convolution" if node.groups == 1 else "ConvolutionDepthWise", node.name, node.inputs, [target],
                  {**parameters, **activation, 31: NO_WINOGRAD if direct else None}, **weights)
    _finish(node, build, make)


@converter(ir.Deconvolution)
def _deconvolution(node, build):
    inputs, outputs = node.weight.shape[:2]
    weight = node.weight.reshape((node.groups, inputs // node.groups) + node.weight.shape[1:]).swapaxes(1, 2)
    below, right = node.output_pads
    parameters = {0: outputs * node.groups, **_geometry(node, node.weight), 18: right or None,
                  19: below if below != right else None, 5: _flag(node.bias), 6: weight.size,
                  7: None if node.groups == 1 else node.groups}

    def make(target, activation):
        build.add("Deconvolution" if node.groups == 1 else "DeconvolutionDepthWise", node.name, node.inputs, [target],
                  {**parameters, **activation}, weight=weight, bias=node.bias)
    _finish(node, build, make)


@converter(ir.InnerProduct)
def _inner_product(node, build):
    integers = build.integers and node.quantization is not None
    source = node.inputs[0]
    if len(build.shape(source)) in (2, 4):  # ncnn would take two axes for a batch
        flat = node.name + "_flat"
        build.add_reshape(flat, source, flat, (int(np.prod(build.shape(source))),))
        source = flat
    parameters = {0: len(node.weight), 1: _flag(node.bias), 2: node.weight.size,
                  8: 2 if integers else None}
    weights = _weights(node, integers)

    def make(target, activation):
        build.add("InnerProduct", node.name, [source], [target], {**parameters, **activation}, **weights)
    _finish(node, build, make)


@converter(ir.PReLU)
def _prelu(node, build):
    build.add("PReLU", node.name, node.inputs, node.outputs, {0: node.slope.size}, slope=node.slope)


@converter(ir.BatchNorm)
def _batch_norm(node, build):
    variance = np.asarray(node.variance, np.float32) + np.float32(node.epsilon)  # as ncnn computes, without rounding
    build.add("BatchNorm", node.name, node.inputs, node.outputs, {0: len(variance)}, slope=node.gamma, mean=node.mean,
              variance=variance, bias=node.beta)


@converter(ir.Affine)
def _affine(node, build):
    build.add("Scale", node.name, node.inputs, node.outputs,
              {0: node.scale.size, 1: _flag(node.shift)}, scale=node.scale, bias=node.shift)
