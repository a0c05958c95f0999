# SPDX-License-Identifier: MIT
"""A whole network as documents and arrays, and back."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, HybridBlock, Parameter

from quantize.convert.net import QuantizedNet, quantized_net_class
from quantize.convert.plan import Plan
from quantize.errors import ConversionError, ModelFileError
from quantize.modes import clear_cached_graphs, quantized_layers
from quantize.nn import BypassBatchNorm, SkippableReLU
from quantize.nn.layer import QuantizedBlock
from quantize.onednn import guard_norms
from quantize.ops import native
from quantize.storage import layers as kinds
from quantize.storage import quantizers
from quantize.storage.container import expect
from quantize.storage.graph import StoredNet, graph_of, layers_of
from quantize.storage.values import decoded, encoded
from quantize.tree import replace_blocks, walk

VALUES = "parameter:"
PROPERTIES = ("grad_req", "lr_mult", "wd_mult")
Document = Dict[str, Any]
Contents = Tuple[Document, Dict[str, np.ndarray]]


# ---- from a network


def documented(net: Block, inputs: int) -> Contents:
    """(Document, arrays) of a network. Raises ConversionError for what no file can hold."""
    if not isinstance(net, HybridBlock):
        raise ConversionError(f"a {type(net).__name__} cannot be saved: only HybridBlocks have a graph")
    mx.nd.waitall()  # moving averages that a training step may still be updating
    layers, blocks, shared = layers_of(net), dict(walk(net)), quantizers.Shared()
    lost = [path for path, _ in quantized_layers(net) if path not in layers and not _inside(path, layers)]
    if lost:
        named = ", ".join(f"{path} ({type(blocks[path]).__name__})" for path in lost)
        raise ConversionError(f"{named}: cannot be saved, since files hold layers of quantize.convert.layers alone; "
                              "subclass Gluon's layer before the conversion, or keep the parameters alone with "
                              "save_parameters")
    graph = graph_of(net, layers, inputs)
    parameters, values, same = _parameters(net)
    document = {
        "name": net.name, "class": type(net).__name__, "prefix": net.prefix, "graph": graph,
        "layers": {path: kinds.record_of(layer) for path, layer in layers.items()}, "order": list(layers),
        "additions": {path: quantizers.additions_of(path, layer, shared) for path, layer in quantized_layers(net)},
        "readers": _readers(blocks), "parameters": parameters, "shared": same, "inputs": inputs,
        "others": _others(layers, parameters),
        "plan": encoded(net.plan) if isinstance(net, QuantizedNet) else None,
        "rules": encoded(net.rules) if isinstance(net, QuantizedNet) else None}
    for path, layer in quantized_layers(net):
        values.update(quantizers.kept_arrays(path, layer))
    return document, values


def _inside(path: str, layers: Mapping[str, Block]) -> bool:
    return any(path.startswith(outer + ".") for outer in layers)


def _parameters(net: Block) -> Tuple[Dict[str, Any], Dict[str, np.ndarray], Dict[str, str]]:
    """({name: what is said of a parameter}, {name: its value}, {other name: name})."""
    said: Dict[str, Any] = {}
    values: Dict[str, np.ndarray] = {}
    first: Dict[int, str] = {}
    same: Dict[str, str] = {}
    for name, parameter in net._collect_params_with_prefix().items():
        if id(parameter) in first:
            same[name] = first[id(parameter)]
            continue
        if parameter._data is None:
            raise ConversionError(f"{net.name}: parameter {name} has no value yet; initialize the network, and run it "
                                  "once")
        first[id(parameter)] = name
        said[name] = {"name": parameter.name, **{key: getattr(parameter, key) for key in PROPERTIES}}
        values[VALUES + name] = parameter.list_data()[0].asnumpy()
    return said, values, same


def _others(layers: Mapping[str, Block], parameters: Mapping[str, Any]) -> List[str]:
    """Names of the parameters that no layer has."""
    return [name for name in parameters if not any(name.startswith(path + ".") for path in layers)]


def _readers(blocks: Mapping[str, Block]) -> Dict[str, List[str]]:
    paths = {id(block): path for path, block in blocks.items()}
    return {path: sorted(paths[id(reader)] for reader in block.readers) for path, block in blocks.items()
            if isinstance(block, SkippableReLU)}


# ---- and back


def restored(document: Document, arrays: Mapping[str, np.ndarray], ctx: Optional[mx.Context],
             as_float: bool = False) -> StoredNet:
    """The network of a document that its schema allows, or the float one under it (else ModelFileError)."""
    ctx = ctx or mx.cpu()
    records, order, additions = document["layers"], document["order"], document["additions"]
    if sorted(order) != sorted(records):
        raise ModelFileError("the order of layers names others than there are")
    made = {path: kinds.made(records[path], path, as_float) for path in order}
    others = _other_parameters(document, arrays)
    net = StoredNet(document["graph"], {path: layer for path, (layer, _) in made.items()}, others, document["prefix"])
    guard_norms(net, inputs=document["inputs"])
    becoming = {path: become for path, (_, become) in made.items() if become is not None}
    if as_float:
        return _float(net, (document, additions, becoming), arrays, ctx)
    _become(net, becoming)
    _add(net, additions)
    blocks = dict(walk(net))
    quantizers.link_relus(blocks, document["readers"])
    _set_parameters(net, document, arrays, ctx)
    for path, layer in quantized_layers(net):
        quantizers.restore_arrays(path, layer, arrays, ctx)
        if additions.get(path, {}).get("unrounded") is not None:
            quantizers.restore_unrounded(path, layer, additions[path]["unrounded"], arrays, ctx)
    if document.get("plan") is not None:
        net.__class__ = quantized_net_class(StoredNet)
        net.plan = expect(decoded(document["plan"]), Plan, "plan")
        net.rules = decoded(document.get("rules"))
    clear_cached_graphs(net)
    return net


def _float(net: StoredNet, parts: Tuple[Document, Document, Mapping[str, type]], arrays: Mapping[str, np.ndarray],
           ctx: mx.Context) -> StoredNet:
    """Layers without what conversion added; BatchNorms that were folded compute again, merged ones stay merged."""
    document, additions, becoming = parts
    folded = {record["norm"]["block"] for record in additions.values() if record.get("norm")}
    blocks = dict(walk(net))
    _become(net, {path: kind for path, kind in becoming.items() if blocks[path].name not in folded})
    found = net._collect_params_with_prefix()
    fixed = {VALUES + name: array for name, array in quantizers.float_arrays(arrays).items()}
    kept = {part: {name: value for name, value in document[part].items() if name in found}
            for part in ("parameters", "shared")}
    _set_parameters(net, kept, {**arrays, **fixed}, ctx)
    clear_cached_graphs(net)
    return net


def _other_parameters(document: Document, arrays: Mapping[str, np.ndarray]) -> Dict[str, Parameter]:
    found = {}
    said = document["parameters"]
    for name in document["others"]:
        if name not in said or VALUES + name not in arrays:
            raise ModelFileError(f"parameter {name!r} has no value")
        array = arrays[VALUES + name]
        found[name] = Parameter(said[name]["name"], shape=array.shape, dtype=array.dtype)
    return found


def _become(net: Block, kinds_by_path: Mapping[str, type]) -> None:
    """Layers become what they are to be; the BatchNorms that step aside stay at hand for the layers they fold into."""
    blocks = dict(walk(net))
    replacements = {}
    for path, kind in kinds_by_path.items():
        new = kinds.become_kind(blocks[path], kind)
        if new is not blocks[path]:
            replacements[id(blocks[path])] = new
    replace_blocks(net, replacements)


def _add(net: Block, additions: Mapping[str, Any]) -> None:
    blocks, shared = dict(walk(net)), quantizers.Shared(additions)
    norms = {block.name: block for block in blocks.values() if isinstance(block, BypassBatchNorm)}
    for path, record in additions.items():
        layer = blocks.get(path)
        if not isinstance(layer, QuantizedBlock):
            raise ModelFileError(f"{path}: no layer there holds quantizers")
        quantizers.add(path, layer, record, shared)
        if record.get("norm") is not None:
            aside = norms.get(record["norm"]["block"])
            if aside is None:
                raise ModelFileError(f"{path}: the BatchNorm folded into it is missing")
            quantizers.fold(path, layer, record["norm"], kinds.stepped_back(aside))


def _set_parameters(net: Block, document: Document, arrays: Mapping[str, np.ndarray], ctx: mx.Context) -> None:
    """Values and properties; names must be those of the network, no more and no fewer."""
    said, same = document["parameters"], document["shared"]
    found = net._collect_params_with_prefix()
    wanted = set(said) | set(same)
    if set(found) != wanted:
        name = sorted(set(found) ^ wanted)[0]
        raise ModelFileError(f"parameter {name!r} is {'missing' if name in found else 'in no layer'}")
    for name, first in same.items():
        if first not in found or found[name] is not found[first]:
            raise ModelFileError(f"parameters {name!r} and {first!r} are one in the file, and two in its layers")
    for name, properties in said.items():
        parameter, array = found[name], arrays.get(VALUES + name)
        if array is None or tuple(array.shape) != tuple(parameter.shape):
            raise ModelFileError(f"parameter {name!r} of shape {parameter.shape}: the file has "
                                 f"{'none' if array is None else array.shape}")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ModelFileError(f"parameter {name!r} holds NaN, infinity or no real numbers")
        # as load_parameters does it: initial values that are overwritten at once took most of the time
        parameter._load_init(mx.nd.array(array, dtype=parameter.dtype), ctx)
        for key in PROPERTIES:
            setattr(parameter, key, properties[key])
    for parameter in net.collect_params().values():
        if parameter._data is None:
            parameter.initialize(ctx=ctx)  # constants of Winograd transforms
    if native.why_not():
        _compose(net)


def _compose(net: Block) -> None:
    """Native operators are missing here: their composed equals do."""
    for _, layer in quantized_layers(net):
        for slot in quantizers.SLOTS:
            quantizer = getattr(layer, slot)
            if quantizer is not None and quantizer.backend == "native":
                quantizer.backend = "auto"


