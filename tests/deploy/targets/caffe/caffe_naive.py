# SPDX-License-Identifier: MIT
"""Caffe as slow, plain loops: reads the two files without protobuf and computes what Caffe documents for each layer."""

import re
import struct

import numpy as np

# ---- the files

TOKEN = re.compile(r'\s+|#[^\n]*|"(?:[^"\\]|\\.)*"|[{}:]|[^\s{}:"#]+')


def read_text(text):
    """Field -> list of values of a protobuf text: strings without quotes, numbers as text, messages as such dicts."""
    tokens = [token for token in TOKEN.findall(text) if not token.isspace() and not token.startswith("#")]

    def message(position):
        fields = {}
        while position < len(tokens) and tokens[position] != "}":
            name, position = tokens[position], position + 1
            if tokens[position] == "{":
                value, position = message(position + 1)
                assert tokens[position] == "}"
            else:
                assert tokens[position] == ":"
                position += 1
                value = tokens[position].strip('"')
            fields.setdefault(name, []).append(value)
            position += 1
        return fields, position

    fields, end = message(0)
    assert end == len(tokens)
    return fields


def read_wire(data):
    """Field number -> list of raw values of a protobuf message: int for varints, bytes for the rest."""
    fields, position = {}, 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        else:
            size = {1: lambda: 8, 2: varint, 5: lambda: 4}[key & 7]()
            value = data[position:position + size]
            assert len(value) == size
            position += size
        fields.setdefault(key >> 3, []).append(value)
    return fields


def read_varints(data):
    """Packed integers."""
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            values.append(value)
            value = shift = 0
    return values


def read_blobs(data):
    """Layer -> its weights, from a .caffemodel: layer 100 with name 1 and blobs 7; a blob has data 5 and shape 7."""
    layers = {}
    for raw in read_wire(data)[100]:
        layer = read_wire(raw)
        blobs = []
        for blob in map(read_wire, layer.get(7, [])):
            values = struct.unpack(f"<{len(blob[5][0]) // 4}f", blob[5][0])
            blobs.append(np.array(values, np.float32).reshape(read_varints(read_wire(blob[7][0])[1][0])))
        layers[layer[1][0].decode()] = blobs
    return layers


# ---- the network

def run(folder, inputs):
    """Every blob of the network in `folder`, by name; `inputs` is blob -> array (n, ...)."""
    net = read_text((folder / "model.prototxt").read_text())
    weights = read_blobs((folder / "model.caffemodel").read_bytes())
    values = {}
    for layer in net["layer"]:
        kind, name, tops = layer["type"][0], layer["name"][0], layer["top"]
        if kind == "Input":
            shape = [int(size) for size in layer["input_param"][0]["shape"][0]["dim"]]
            assert list(inputs[tops[0]].shape[1:]) == shape[1:]
            values[tops[0]] = inputs[tops[0]].astype(np.float64)
            continue
        bottoms = [values[blob] for blob in layer["bottom"]]
        parameters = [value[0] for field, value in layer.items() if field.endswith("_param")]
        result = TYPES[kind](bottoms, (parameters or [{}])[0], [blob.astype(np.float64) for blob in weights[name]])
        values.update(zip(tops, result if isinstance(result, tuple) else (result,)))
    return values


def number(parameters, name, default):
    """One number of a parameter message."""
    return type(default)(float(parameters.get(name, [default])[0]))


def pair(parameters, name, short, default):
    """(height, width) from `<name>_h` and `<name>_w`, or one number for both; never both spellings."""
    if name + "_h" in parameters:
        assert short not in parameters
        return int(parameters[name + "_h"][0]), int(parameters[name + "_w"][0])
    value, = parameters.get(short, [default])
    return int(value), int(value)


def windows(parameters):
    """kernel, stride and padding as (height, width)."""
    return (pair(parameters, "kernel", "kernel_size", 0), pair(parameters, "stride", "stride", 1),
            pair(parameters, "pad", "pad", 0))


def convolution(bottoms, parameters, blobs):
    """Sums over windows, one group after the other."""
    x, weight = bottoms[0], blobs[0]
    kernel, stride, pad = windows(parameters)
    assert weight.shape[2:] == kernel and weight.shape[0] == number(parameters, "num_output", 0)
    step, groups = number(parameters, "dilation", 1), number(parameters, "group", 1)
    size = [(x.shape[2 + a] + 2 * pad[a] - step * (kernel[a] - 1) - 1) // stride[a] + 1 for a in (0, 1)]
    x = np.pad(x, ((0, 0), (0, 0), (pad[0], pad[0]), (pad[1], pad[1])))
    y = np.zeros((len(x), len(weight)) + tuple(size))
    for o in range(len(weight)):
        first = o // (len(weight) // groups) * weight.shape[1]
        for i, j in np.ndindex(*size):
            top, left = i * stride[0], j * stride[1]
            window = x[:, first:first + weight.shape[1], top:top + step * (kernel[0] - 1) + 1:step,
                       left:left + step * (kernel[1] - 1) + 1:step]
            y[:, o, i, j] = (window * weight[o]).sum(axis=(1, 2, 3))
    return with_bias(y, parameters, blobs)


def deconvolution(bottoms, parameters, blobs):
    """Every input element adds its weights to a window of the output, whose rim is cut off."""
    x, weight = bottoms[0], blobs[0]
    kernel, stride, pad = windows(parameters)
    step, groups = number(parameters, "dilation", 1), number(parameters, "group", 1)
    outputs = weight.shape[1] * groups
    assert weight.shape[2:] == kernel and len(weight) == x.shape[1] and outputs == number(parameters, "num_output", 0)
    full = [stride[a] * (x.shape[2 + a] - 1) + step * (kernel[a] - 1) + 1 for a in (0, 1)]
    y = np.zeros((len(x), outputs) + tuple(full))
    for c, i, j in np.ndindex(*x.shape[1:]):
        first = c // (len(weight) // groups) * weight.shape[1]
        top, left = i * stride[0], j * stride[1]
        y[:, first:first + weight.shape[1], top:top + step * (kernel[0] - 1) + 1:step,
          left:left + step * (kernel[1] - 1) + 1:step] += x[:, c, i, j].reshape(-1, 1, 1, 1) * weight[c]
    return with_bias(y[:, :, pad[0]:full[0] - pad[0], pad[1]:full[1] - pad[1]], parameters, blobs)


def with_bias(y, parameters, blobs):
    """Adds the bias along axis 1, where there is one."""
    assert (parameters["bias_term"][0] == "true") == (len(blobs) == 2)
    return y + blobs[1].reshape((1, -1) + (1,) * (y.ndim - 2)) if len(blobs) == 2 else y


def inner_product(bottoms, parameters, blobs):
    """A matrix times the flattened bottom."""
    assert len(blobs[0]) == number(parameters, "num_output", 0)
    return with_bias(bottoms[0].reshape(len(bottoms[0]), -1) @ blobs[0].T, parameters, blobs)


def pooling(bottoms, parameters, blobs):
    """Caffe's: sizes rounded up, a last window that begins in the padding dropped, averages that count padding."""
    x, kind = bottoms[0], parameters["pool"][0]
    if parameters.get("global_pooling") == ["true"]:
        return (x.max if kind == "MAX" else x.mean)(axis=(2, 3), keepdims=True)
    kernel, stride, pad = windows(parameters)
    return pool(x, kind, kernel, stride, pad)


def pool(x, kind, kernel, stride, pad):
    """Pooling of windows; None where Caffe would refuse the padding or meet a window without elements."""
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        return None
    size = [-(-(x.shape[2 + a] + 2 * pad[a] - kernel[a]) // stride[a]) + 1 for a in (0, 1)]
    if pad[0] or pad[1]:
        size = [n - (1 if (n - 1) * stride[a] >= x.shape[2 + a] + pad[a] else 0) for a, n in enumerate(size)]
    y = np.zeros(x.shape[:2] + tuple(size))
    for i, j in np.ndindex(*size):
        top, left = i * stride[0] - pad[0], j * stride[1] - pad[1]
        bottom = min(top + kernel[0], x.shape[2] + pad[0])
        right = min(left + kernel[1], x.shape[3] + pad[1])
        area = (bottom - top) * (right - left)
        window = x[:, :, max(top, 0):bottom, max(left, 0):right]
        if not window.size:
            return None
        y[:, :, i, j] = window.max(axis=(2, 3)) if kind == "MAX" else window.sum(axis=(2, 3)) / area
    return y


def channels(values, x):
    """(channels,) that broadcasts along axis 1."""
    return values.reshape((1, -1) + (1,) * (x.ndim - 2))


def batch_norm(bottoms, parameters, blobs):
    """Normalizes only; mean and variance are divided by the third blob."""
    mean, variance = (channels(blob / blobs[2][0], bottoms[0]) for blob in blobs[:2])
    return (bottoms[0] - mean) / np.sqrt(variance + np.float32(float(parameters["eps"][0])))


def scale(bottoms, parameters, blobs):
    """Along axis 1."""
    assert parameters["axis"] == ["1"]
    y = bottoms[0] * channels(blobs[0], bottoms[0])
    assert (parameters["bias_term"][0] == "true") == (len(blobs) == 2)
    return y + channels(blobs[1], y) if len(blobs) == 2 else y


def eltwise(bottoms, parameters, blobs):
    """Of blobs of one shape."""
    assert len({bottom.shape for bottom in bottoms}) == 1
    if parameters["operation"] == ["SUM"]:
        factors = [float(factor) for factor in parameters.get("coeff", [1] * len(bottoms))]
        return sum(factor * bottom for factor, bottom in zip(factors, bottoms))
    return {"PROD": np.multiply, "MAX": np.maximum}[parameters["operation"][0]].reduce(bottoms)


def slices(bottoms, parameters, blobs):
    """Cut at the points."""
    points = [int(point) for point in parameters.get("slice_point", [])]
    return tuple(np.split(bottoms[0], points, axis=number(parameters, "axis", 1)))


def softmax(bottoms, parameters, blobs):
    """Along an axis that counts the batch."""
    e = np.exp(bottoms[0])
    return e / e.sum(axis=number(parameters, "axis", 1), keepdims=True)


def reshape(bottoms, parameters, blobs):
    """0 keeps an axis."""
    x = bottoms[0]
    sizes = [int(size) for size in parameters["shape"][0]["dim"]]
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def relu(bottoms, parameters, blobs):
    """With a slope below zero."""
    return below_zero(bottoms[0], bottoms[0] * number(parameters, "negative_slope", 0.0))


def below_zero(x, otherwise):
    """x where it is positive."""
    return np.where(x > 0, x, otherwise)


def power(bottoms, parameters, blobs):
    """(shift + scale * x) ** power."""
    shift, factor, exponent = (number(parameters, name, 0.0) for name in ("shift", "scale", "power"))
    return (shift + factor * bottoms[0]) ** exponent


def of(function):
    """A layer type that applies a function to its bottom."""
    return lambda bottoms, parameters, blobs: function(bottoms[0])


TYPES = {
    "Convolution": convolution, "Deconvolution": deconvolution, "InnerProduct": inner_product, "Pooling": pooling,
    "BatchNorm": batch_norm, "Scale": scale, "Eltwise": eltwise, "Slice": slices, "Softmax": softmax,
    "Reshape": reshape, "ReLU": relu, "Power": power,
    "Concat": lambda bottoms, p, blobs: np.concatenate(bottoms, axis=number(p, "axis", 1)),
    "Permute": lambda bottoms, p, blobs: bottoms[0].transpose([int(axis) for axis in p["order"]]),
    "PReLU": lambda bottoms, p, blobs: below_zero(bottoms[0], bottoms[0] * channels(blobs[0], bottoms[0])),
    "ELU": lambda bottoms, p, blobs: below_zero(bottoms[0], number(p, "alpha", 1.0) * np.expm1(bottoms[0])),
    "Flatten": of(lambda x: x.reshape(len(x), -1)), "Sigmoid": of(lambda x: 1 / (1 + np.exp(-x))), "TanH": of(np.tanh),
    "ReLU6": of(lambda x: np.clip(x, 0, 6)), "Swish": of(lambda x: x / (1 + np.exp(-x))), "Exp": of(np.exp),
    "BNLL": of(lambda x: np.logaddexp(0, x)), "AbsVal": of(np.abs),
}
