# SPDX-License-Identifier: MIT
"""Reads an ONNX file, and says the same in fewer ways: functions inlined, every float a float32."""

import logging
import os
from typing import Any, Dict, Iterable, Tuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from quantize.documents import parse_json
from quantize.errors import ModelFileError
from quantize.files import read_bytes
from quantize.importers.onnx.external import bring_in, size_of
from quantize.limits import claim

logger = logging.getLogger(__name__)

#: The newest operator set that files may have: from 23 to 26 the standard gave the operators that are read here new
#: element types, but no new meaning (ONNX Runtime agrees on files of each), so they are read like `KNOWN_OPSET`.
NEWEST_OPSET = 26
OLDEST_OPSET = 6
#: The newest operator set that the installed onnx library describes.
KNOWN_OPSET = onnx.defs.onnx_opset_version()

_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_EIGHT_BITS = tuple(value for name, value in TensorProto.DataType.items() if name.startswith("FLOAT8"))


def load(path: str) -> Tuple[onnx.ModelProto, int]:
    """The model of a file and its operator set.

    Raises
    ------
    ModelFileError
        A missing or damaged file, one that holds no network, or an operator set that is too old or too new.
    """
    model = _parse(path)
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or not model.graph.node:
        raise ModelFileError(f"{path}: not an ONNX model (no operator set or no nodes)")
    if not model.graph.output:
        raise ModelFileError(f"{path}: the graph has no outputs")
    opset = versions[0]
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelFileError(f"{path}: operator set {opset} cannot be read (supported: {OLDEST_OPSET} to "
                             f"{NEWEST_OPSET}); export the network with operator set {min(KNOWN_OPSET, 17)}")
    if opset > KNOWN_OPSET:
        logger.warning("%s: operator set %d is newer than the installed onnx library (%d); its operators are read as "
                       "those of %d", path, opset, KNOWN_OPSET, KNOWN_OPSET)
        opset = KNOWN_OPSET
    for node in model.graph.node:
        if node.domain == "ai.onnx":  # the standard's own domain, written out
            node.domain = ""
    if model.functions:
        model = _inlined(path, model)
    _to_float32(path, model.graph)
    return model, opset


def _parse(path: str):
    if not os.path.exists(path):
        raise ModelFileError(f"{path}: no such file")
    try:
        model = onnx.load_model_from_string(read_bytes(path))
        bring_in(path, model)
        return model
    except (DecodeError, ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: not a readable ONNX file (truncated?): {first_line(error)}") from error


def _inlined(path, model):
    """The model with its local functions put in place, as PyTorch's newer exporter writes them."""
    from onnx import inliner
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the library raises RuntimeError, ValueError or its own ConvertError
        raise ModelFileError(f"{path}: its functions cannot be put in place: {first_line(error)}") from error


def read_array(path: str, proto: TensorProto) -> np.ndarray:
    """The values of a TensorProto; floats of other widths as float32."""
    claim_tensor(path, proto.name, proto.dims, proto.data_type)
    try:
        array = _halves(proto) if proto.data_type == TensorProto.BFLOAT16 else numpy_helper.to_array(proto)
    except (ValueError, TypeError, OSError, KeyError, IndexError) as error:
        raise ModelFileError(f"{path}: tensor {proto.name!r} cannot be read: {first_line(error)}") from error
    if proto.data_type in _EIGHT_BITS:
        raise ModelFileError(f"{path}: tensor {proto.name!r} holds floats of 8 bits, which are not read; export the "
                             "network with weights in float32")
    with np.errstate(over="ignore"):
        return array.astype("float32") if proto.data_type in _FLOATS else array


def _halves(proto):
    """bfloat16 as the float32 it is the upper half of; the library looks past bytes, and makes integers of numbers."""
    has_bytes = proto.HasField("raw_data")
    stored = np.frombuffer(proto.raw_data, "<u2") if has_bytes else np.array(proto.int32_data, np.int64)
    return (stored.astype(np.uint32) << 16).view(np.float32).reshape(tuple(proto.dims))


def claim_tensor(path: str, name: str, sizes: Iterable[int], kind: int) -> None:
    """ModelFileError where a tensor says that it is larger than is allowed, or of a type that nobody knows."""
    try:
        size = size_of(TensorProto(name=name, dims=sizes, data_type=kind))
        claim(size, f"{path}: tensor {name!r:.60}", ModelFileError)
    except ModelFileError as error:
        text = str(error)
        raise ModelFileError(text if text.startswith(path) else f"{path}: {text}") from None


def _to_float32(path: str, graph) -> None:
    """Constants, casts and declared types of half, double and bfloat16 become float32, in which all is computed."""
    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type in _FLOATS:
            graph.initializer[index].CopyFrom(numpy_helper.from_array(read_array(path, tensor), tensor.name))
    for value in list(graph.input) + list(graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for entry in node.attribute:
            if entry.name in ("to", "dtype", "output_dtype", "stash_type") and entry.i in _FLOATS:
                entry.i = TensorProto.FLOAT
            if entry.type == onnx.AttributeProto.TENSOR and entry.t.data_type in _FLOATS:
                entry.t.CopyFrom(numpy_helper.from_array(read_array(path, entry.t), entry.t.name))
            if entry.type == onnx.AttributeProto.GRAPH:
                _to_float32(path, entry.g)


def initializers(path: str, graph: onnx.GraphProto) -> Dict[str, np.ndarray]:
    """Name -> array of everything that the file stores, sparse tensors included."""
    arrays = {proto.name: read_array(path, proto) for proto in graph.initializer}
    for sparse in graph.sparse_initializer:
        claim_tensor(path, sparse.values.name, sparse.dims, sparse.values.data_type)
        places, values = read_array(path, sparse.indices), read_array(path, sparse.values)
        dense = np.zeros(list(sparse.dims), values.dtype)
        if places.ndim == 2:
            dense[tuple(places.T)] = values
        else:
            dense.reshape(-1)[places] = values
        arrays[sparse.values.name] = dense
    return arrays


def preprocessing(path: str, model: onnx.ModelProto) -> Any:
    """The JSON of the metadata key 'preprocessing', or None."""
    text = {entry.key: entry.value for entry in model.metadata_props}.get("preprocessing")
    return None if text is None else parse_json(text, f"{path}: metadata 'preprocessing' is not JSON", ModelFileError)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
