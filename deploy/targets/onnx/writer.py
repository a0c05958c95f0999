# SPDX-License-Identifier: MIT
"""The file: `<name>.onnx`, operator set 13 (21 for 4-bit weights), in integers or in float32."""

import logging
import pathlib
from typing import Any, Tuple

from deploy.ir import Model
from deploy.ir.roundings import without_roundings
from deploy.study import in_float
from deploy.targets.onnx.nodes import Graph
from deploy.targets.onnx.operators import OPERATORS
from quantize.errors import DeployError
from quantize.files import PathLike, read_bytes, write_whole

LOG = logging.getLogger(__name__)
SUFFIX = ".onnx"
OPSET, IR_VERSION = 13, 8
OPSET_INT4, IR_VERSION_INT4 = 21, 10
BATCH = "N"
PRODUCER = "gluon-quantize"


def render(model: Model, integers: bool = True, int4: bool = False) -> bytes:
    """The contents of the file, checked by `onnx.checker` and strict shape inference; the same model, the same bytes.

    Parameters
    ----------
    integers : bool
        False: all layers compute in float32.
    int4 : bool
        Weights with codes from -7 to 7 are stored in 4 bits, which wants a newer operator set.
    """
    import onnx
    from onnx import TensorProto, helper, shape_inference
    if not integers:
        model = without_roundings(in_float(model))
    graph = Graph(int4)
    for node in model.nodes:
        OPERATORS[type(node)](graph, node, model)
    values = {kind: [helper.make_tensor_value_info(blob, TensorProto.FLOAT, [BATCH, *model.shapes[blob]])
                     for blob in blobs] for kind, blobs in (("in", model.inputs), ("out", model.outputs))}
    opset, ir_version = (OPSET_INT4, IR_VERSION_INT4) if int4 else (OPSET, IR_VERSION)
    name = model.metadata.get("name", "network")
    proto = helper.make_model(helper.make_graph(graph.nodes, name, values["in"], values["out"], graph.tensors()),
                              producer_name=PRODUCER, opset_imports=[helper.make_opsetid("", opset)])
    proto.ir_version = ir_version
    helper.set_model_props(proto, dict(model.metadata))
    onnx.checker.check_model(proto)
    shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    return proto.SerializeToString(deterministic=True)


def check(model: Model, path: pathlib.Path) -> None:
    """DeployError for a file that is not what `render` makes of the model, with weights of 8 or of 4 bits."""
    import onnx
    from google.protobuf.message import DecodeError
    found = read_bytes(path)
    try:
        if any(_plain(found) == _plain(render(model, int4=int4)) for int4 in (False, True)):
            return
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DeployError(f"{path}: is no ONNX file, or not of this model: {str(error).splitlines()[0]:.200}") from None
    raise DeployError(f"{path}: is not what this program writes; deploy the network again")


def _plain(content: bytes) -> Any:
    """The file as a message; the order of its metadata says nothing."""
    import onnx
    proto = onnx.ModelProto.FromString(content)
    stated = sorted(proto.metadata_props, key=lambda entry: entry.key)
    del proto.metadata_props[:]
    proto.metadata_props.extend(stated)
    return proto


def write(model: Model, folder: PathLike, name: str, integers: bool = True,
          int4: bool = False) -> Tuple[pathlib.Path]:
    """Write the file into an existing folder; its path, in a tuple."""
    path = pathlib.Path(folder) / (name + SUFFIX)
    data = render(model, integers, int4)
    write_whole(path, data)
    LOG.info("%s: %d bytes", path, len(data))
    return (path,)
