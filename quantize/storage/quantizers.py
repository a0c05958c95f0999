# SPDX-License-Identifier: MIT
"""Quantizers as records: format, method, mode, and whatever of their state is no parameter."""

from math import prod
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Parameter

from quantize.documents import checked
from quantize.errors import ConversionError, ModelFileError, QuantizeError
from quantize.modes import Unrounded
from quantize.nn import METHODS, FoldedBatchNorm, SkippableReLU, WinogradTransform
from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.methods import check_options
from quantize.spec import QuantSpec
from quantize.storage.container import expect
from quantize.storage.schema import Quantizer, Same
from quantize.storage.values import decoded, encoded
from quantize.winograd import WinogradSpec

SLOTS = ("input_quantizer", "weight_quantizer", "output_quantizer", "tile_quantizer")
# attributes that are neither parameter nor format
STATE = ("frozen", "reorder_first", "momentum", "backend")
FLOAT_WEIGHT, FLOAT_BIAS = "float_weight:", "float_bias:"
UNROUNDED = {name: f"unrounded_{name}:" for name in ("weight", "bias", "scale")}
Arrays = Mapping[str, np.ndarray]


def record_of(quantizer: FakeQuantize) -> Dict[str, Any]:
    """A quantizer as JSON can hold it; its numbers are parameters of the network.

    Raises ConversionError for a class that is no row of `METHODS`.
    """
    method, role = _row(quantizer)
    options = {name: getattr(quantizer, name) for name in (*quantizer.options, *quantizer.facts)
               if not isinstance(getattr(quantizer, name), Parameter)}
    found = {"method": method, "role": role, "spec": encoded(quantizer.spec), "mode": quantizer.mode,
             "scale_shape": list(quantizer.scale.shape), "prefix": quantizer.prefix, "options": options,
             "state": {name: getattr(quantizer, name) for name in STATE},
             "requests": {name: _request(quantizer, name) for name in quantizer.trained}}
    if quantizer.clamp_stage:
        found["state"]["clamp_only"] = quantizer.clamp_only
    if quantizer.solver:
        found["solver"] = encoded(quantizer.solver)
    return found


def _row(quantizer: FakeQuantize) -> Tuple[str, str]:
    for name, method in METHODS.items():
        for role in ("weight", "activation"):
            if getattr(method, role) is type(quantizer):
                return name, role
    raise ConversionError(f"{quantizer.name}: a {type(quantizer).__name__} cannot be saved: it is no method of "
                          "quantize.nn.METHODS; register it there")


def _request(quantizer: FakeQuantize, name: str) -> str:
    """The gradient that a trained number asks for in `offline` mode."""
    return quantizer._reg_params[name].grad_req if quantizer.mode == "offline" else quantizer._requests[name]


def made(record: Any, where: str) -> FakeQuantize:
    """The quantizer of a record; ModelFileError for one that cannot be. Numbers are set with the network's others."""
    try:
        checked(record, Quantizer, where, ModelFileError)
        return _made(record)
    except QuantizeError as error:
        raise ModelFileError(f"{where}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{where}: no quantizer can be made of this record: {error!r}") from None


def _made(record: Dict[str, Any]) -> FakeQuantize:
    kind = getattr(METHODS.get(record["method"]), record["role"])
    spec = expect(decoded(record["spec"]), QuantSpec, "spec")
    options = {name: value for name, value in record["options"].items() if name in (*kind.options, *kind.facts)}
    shape = tuple(record["scale_shape"])
    if prod(shape) > 1 << 24:
        raise ModelFileError(f"{shape} is no shape of scales")
    quantizer = kind(spec, shape, mode="float", prefix=record["prefix"], **options)
    for name in (*STATE, *(["clamp_only"] if kind.clamp_stage else [])):
        setattr(quantizer, name, record["state"][name])
    for name in quantizer.trained:
        quantizer._requests[name] = record["requests"][name]
    quantizer.mode = record["mode"]
    quantizer.solver = decoded(record.get("solver") or [])
    check_options({"input_solver": quantizer.solver} if quantizer.solver else {})
    return quantizer


# ---- what a layer holds beside its own options


class Shared:
    """Quantizers by the place where they are written down; layers that share one name the first place.

    Parameters
    ----------
    layers : mapping
        Path -> what `additions_of` wrote down, to read it: in files these stand by the alphabet, so that the first
        place may come after others.
    """

    def __init__(self, layers: Optional[Mapping[str, Any]] = None) -> None:
        self.places: Dict[int, str] = {}
        self.made: Dict[str, FakeQuantize] = {}
        self._layers = layers or {}

    def write(self, path: str, quantizer: FakeQuantize) -> Dict[str, Any]:
        """Its record, or the place of the layer that has it already."""
        place = self.places.setdefault(id(quantizer), path)
        return {"same_as": place} if place != path else record_of(quantizer)

    def read(self, path: str, record: Any) -> FakeQuantize:
        """The quantizer of a record."""
        if path in self.made:
            return self.made[path]
        if "same_as" not in record:
            self.made[path] = made(record, path)
            return self.made[path]
        place = checked(record, Same, path, ModelFileError).same_as
        layer, _, slot = place.rpartition(".")
        first = self._layers.get(layer, {}).get("quantizers", {}).get(slot)
        if first is None or "same_as" in first:
            raise ModelFileError(f"{path}: there is no quantizer {place!r}")
        return self.read(place, first)


def additions_of(path: str, layer: Block, shared: Shared) -> Dict[str, Any]:
    """What conversion and training added to a layer, as JSON can hold it."""
    found: Dict[str, Any] = {"gradient_bits": layer.gradient_bits, "quantizers": {
        slot: shared.write(f"{path}.{slot}", getattr(layer, slot)) for slot in SLOTS
        if getattr(layer, slot) is not None}}
    if layer.integer_weights:
        found["integer_weights"] = True
    if layer.weight_transform is not None:
        found["winograd"] = encoded(layer.weight_transform.spec)
        found["winograd_prefix"] = layer.weight_transform.prefix
    if layer.norm is not None:
        found["norm"] = {"block": layer.norm.block.name, "shape": list(layer.norm.shape),
                         "statistics": layer.norm.statistics, "frozen": layer.norm.frozen}
    if layer.unrounded is not None:
        found["unrounded"] = layer.unrounded.mode
    return found


def add(path: str, layer: Block, record: Any, shared: Shared) -> None:
    """Give a layer what `additions_of` wrote down, but for its folded BatchNorm."""
    if record.get("gradient_bits") is not None:
        layer.gradient_bits = record["gradient_bits"]
    layer.integer_weights = record.get("integer_weights", False)
    if record.get("winograd") is not None:
        spec = expect(decoded(record["winograd"]), WinogradSpec, path)
        layer.weight_transform = WinogradTransform(spec, layer.weight.shape, layer._kwargs["num_group"],
                                                   prefix=record["winograd_prefix"])
    for slot, written in record["quantizers"].items():
        setattr(layer, slot, shared.read(f"{path}.{slot}", written))


def fold(path: str, layer: Block, record: Any, norm: Block) -> None:
    """Give a layer its folded BatchNorm, whose block has stepped aside in the network."""
    try:
        layer.norm = FoldedBatchNorm(norm, tuple(record["shape"]), record["statistics"])
        layer.norm.frozen = record["frozen"]
    except (QuantizeError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: no BatchNorm can be folded as the record says: {error!r}") from None
    layer.params.update(norm.params)


def kept_arrays(path: str, layer: Block) -> Iterator[Tuple[str, np.ndarray]]:
    """(name, array) of what a layer keeps to go back to.

    Float weights of fixed ones, biases before correction, and both before their rounding was learned.
    """
    quantizer = layer.weight_quantizer
    if quantizer is not None and quantizer.frozen:
        yield FLOAT_WEIGHT + path, quantizer.float_weight.asnumpy()
    if layer.float_bias is not None:
        yield FLOAT_BIAS + path, layer.float_bias.asnumpy()
    if layer.unrounded is not None:
        for part, prefix in UNROUNDED.items():
            value = getattr(layer.unrounded, part)
            if value is not None:
                yield prefix + path, value.asnumpy()


def restore_arrays(path: str, layer: Block, arrays: Arrays, ctx: mx.Context) -> None:
    """Give back what `kept_arrays` wrote; ModelFileError where it does not fit."""
    for name, parameter, needed in (
            (FLOAT_WEIGHT, "weight", layer.weight_quantizer is not None and layer.weight_quantizer.frozen),
            (FLOAT_BIAS, "bias", False)):
        array: Optional[np.ndarray] = arrays.get(name + path)
        own = getattr(layer, parameter, None)
        if array is None and needed or array is not None and (own is None or array.shape != own.shape):
            raise ModelFileError(f"{path}: the {name[:-1]} is missing, or of another shape")
        if array is None:
            continue
        if name == FLOAT_WEIGHT:
            layer.weight_quantizer.float_weight = mx.nd.array(array, ctx=ctx)
        else:
            layer.float_bias = mx.nd.array(array, ctx=ctx)


def restore_unrounded(path: str, layer: Block, record: Any, arrays: Arrays, ctx: mx.Context) -> None:
    """Give back what the layer was before its rounding was learned; ModelFileError where it does not fit."""
    wanted = {"weight": layer.weight, "bias": layer.bias, "scale": layer.weight_quantizer and
              layer.weight_quantizer.scale}
    found: Dict[str, Any] = {"bias": None}
    for part, prefix in UNROUNDED.items():
        array, own = arrays.get(prefix + path), wanted[part]
        if (array is None) != (own is None) or (array is not None and array.shape != own.shape):
            raise ModelFileError(f"{path}: the {part} from before its rounding was learned is missing, or of another "
                                 "shape")
        if array is not None:
            found[part] = mx.nd.array(array, ctx=ctx)
    layer.unrounded = Unrounded(mode=record, **found)


def float_arrays(arrays: Arrays) -> Dict[str, np.ndarray]:
    """Name of a parameter -> its value from before anything rounded or corrected it, of those that have one."""
    found: Dict[str, np.ndarray] = {}
    for prefix, part in ((FLOAT_WEIGHT, "weight"), (UNROUNDED["weight"], "weight"), (UNROUNDED["bias"], "bias"),
                         (FLOAT_BIAS, "bias")):  # later ones were there earlier
        found.update((f"{name[len(prefix):]}.{part}", array) for name, array in arrays.items()
                     if name.startswith(prefix))
    return found


def link_relus(layers: Mapping[str, Block], readers: Mapping[str, Any]) -> None:
    """Tell each ReLU that may step aside which layers read it."""
    for path, paths in readers.items():
        if not isinstance(layers.get(path), SkippableReLU) or not all(name in layers for name in paths):
            raise ModelFileError(f"{path}: no ReLU with readers {paths}")
        layers[path].readers = frozenset(layers[name] for name in paths)
