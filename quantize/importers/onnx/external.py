# SPDX-License-Identifier: MIT
"""Tensors that an ONNX file keeps in other files: only in its own folder, and no more than these hold.

`onnx.load` follows a link inside the folder to wherever it points, and its check of paths differs between versions.
"""

from __future__ import annotations

import os
from math import prod
from typing import Iterator

import onnx
from onnx import TensorProto, helper

from quantize.errors import ModelFileError
from quantize.escape import shown
from quantize.limits import claim

_BITS: dict[int, int] = {TensorProto.UINT4: 4, TensorProto.INT4: 4}


def bring_in(path: str, model: onnx.ModelProto) -> None:
    """Put the contents of external tensors into the model; ModelFileError where one is not there, or not whole."""
    found = [tensor for tensor in tensors(model.graph) if tensor.data_location == TensorProto.EXTERNAL]
    for function in model.functions:
        found += [tensor for node in function.node for tensor in _of_node(node)
                  if tensor.data_location == TensorProto.EXTERNAL]
    if not found:
        return
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    claim(sum(map(size_of, found)), path, ModelFileError)
    for tensor in found:
        tensor.raw_data = _content(path, folder, tensor)
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph, those of inner graphs and sparse ones included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor] * attribute.HasField("sparse_tensor") + list(attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
            yield from tensors(inner)


def size_of(tensor: TensorProto) -> int:
    """Bytes of the elements that a tensor says it has."""
    try:
        bits = _BITS.get(tensor.data_type) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError, TypeError):
        raise ModelFileError(f"tensor {tensor.name!r:.60} has the unknown element type {tensor.data_type}") from None
    if any(size < 0 for size in tensor.dims):
        raise ModelFileError(f"tensor {tensor.name!r:.60} has the shape {list(tensor.dims)[:8]}")
    return -(-prod(tensor.dims) * bits // 8)


def _content(path, folder, tensor) -> bytes:
    """The bytes of a tensor."""
    stated = {entry.key: entry.value for entry in tensor.external_data}
    where = f"{path}: external data of tensor {tensor.name!r:.60}"
    target = os.path.realpath(os.path.join(folder, stated.get("location", "")))
    if os.path.commonpath([folder, target]) != folder or target == folder:
        raise ModelFileError(f"{where}: {stated.get('location', '')!r:.80} is not in the file's own folder")
    needed = size_of(tensor)
    numbers = []
    for key, usual in (("offset", 0), ("length", needed)):
        text = stated.get(key, str(usual))
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise ModelFileError(f"{where}: {key} {text!r:.40} is no number of bytes")
        numbers.append(int(text))
    offset, length = numbers
    if length != needed:
        raise ModelFileError(f"{where}: {length} bytes, its shape {list(tensor.dims)[:8]} needs {needed}")
    if not os.path.isfile(target):
        raise ModelFileError(f"{where}: no such file: {shown(target)}")
    try:
        with open(target, "rb") as stream:
            stream.seek(offset)
            content = stream.read(length)
    except OSError as error:
        raise ModelFileError(f"{where}: {shown(target)} cannot be read: {error.strerror or error}") from None
    if len(content) != length:
        raise ModelFileError(f"{where}: {shown(target)} ends before byte {offset + length}")
    return content
