# SPDX-License-Identifier: MIT
"""A model as .prototxt (text: layers and parameters) and .caffemodel (binary: the same with weights)."""

import pathlib
from typing import Iterator, List, Tuple

import numpy as np
from google.protobuf import text_format

from deploy import ir
from deploy.target import raise_problems
from deploy.targets.caffe.constraints import check
from deploy.targets.caffe.layer import Layer
from deploy.targets.caffe.layers import LAYERS
from deploy.targets.caffe.messages import LayerParameter, NetParameter
from quantize.errors import DeployError
from quantize.escape import shown
from quantize.files import PathLike, read_text, write_together

SUFFIXES = (".prototxt", ".caffemodel")
PROTOTXT, CAFFEMODEL = ("model" + suffix for suffix in SUFFIXES)


def serialize(model: ir.Model) -> Tuple[str, bytes]:
    """Contents of the .prototxt and the .caffemodel.

    Raises
    ------
    DeployError
        With everything that Caffe cannot express.
    """
    raise_problems(check(model), "Caffe")
    text, binary = (NetParameter(name=model.metadata.get("name", "model")) for _ in range(2))
    for message, blobs in _messages(model):
        text.layer.add().CopyFrom(message)
        layer = binary.layer.add()
        layer.CopyFrom(message)
        for array in blobs:
            layer.blobs.add(data=np.ascontiguousarray(array, "<f4").tobytes(), shape={"dim": array.shape})
    return text_format.MessageToString(text), binary.SerializeToString(deterministic=True)


def write(model: ir.Model, folder: PathLike, name: str = "model") -> List[pathlib.Path]:
    """Write both files into an existing folder, both or none; their paths."""
    text, binary = serialize(model)
    prototxt, weights = (pathlib.Path(folder) / (name + suffix) for suffix in SUFFIXES)
    write_together({weights: binary, prototxt: text})
    return [prototxt, weights]


def output_blobs(prototxt: PathLike) -> List[str]:
    """Blobs of a .prototxt that no layer reads, in order."""
    net = NetParameter()
    try:
        text_format.Parse(read_text(prototxt), net)
    except text_format.ParseError as error:
        raise DeployError(f"{prototxt}: no .prototxt that this project has written: {shown(error):.300}") from None
    read = {blob for layer in net.layer for blob in layer.bottom}
    return [blob for layer in net.layer for blob in layer.top if blob not in read]


def _messages(model) -> Iterator[Tuple[LayerParameter, tuple]]:
    """(message without weights, weights) of each layer, in order."""
    taken = set(model.shapes) | {node.name for node in model.nodes}
    for blob in model.inputs:
        shape = {"dim": (1,) + tuple(model.shapes[blob])}
        yield LayerParameter(name=blob, type="Input", top=[blob], input_param={"shape": [shape]}), ()
    for node in model.nodes:
        yield from _chain(node, LAYERS[type(node)](node, model), taken)


def _chain(node, layers: List[Layer], taken) -> Iterator[Tuple[LayerParameter, tuple]]:
    """The layers of a node, each reading what the one before writes.

    The first layer with weights has the node's name, by which the scale table means it.
    """
    named = next((layer for layer in layers if layer.blobs), layers[0])
    bottom = node.inputs
    for layer in layers:
        fresh = _fresh(f"{node.name}_{layer.type.lower()}", taken)
        top = node.outputs if layer is layers[-1] else (fresh,)
        yield LayerParameter(name=node.name if layer is named else fresh, type=layer.type, bottom=bottom, top=top,
                             **(layer.parameters or {})), layer.blobs
        bottom = top


def _fresh(name, taken) -> str:
    """A name that nobody has; remembered."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
