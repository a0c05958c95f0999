# SPDX-License-Identifier: MIT
"""The files that NNI's `export_model` writes, and the way back."""

import contextlib
import json
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import msgspec
import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from quantize.documents import checked, parse_json
from quantize.errors import ConfigError
from quantize.files import PathLike, check_params_size, read_text, whole_file, write_whole
from quantize.modes import added_parameters, clear_cached_graphs, mode, quantized_layers, quantizers
from quantize.nn.fake_quantize import FakeQuantize
from quantize.onednn import as_written
from quantize.registry import closest
from quantize.spec import QParams, QuantSpec

NAMES = ("bits", "scale", "zero_point")
Values = Union[float, List[float], None]


class Operands(msgspec.Struct, forbid_unknown_fields=True):
    """What the file says of a layer; lists where there is one number for each channel."""

    weight_bits: Optional[int] = None
    weight_scale: Values = None
    weight_zero_point: Values = None
    tracked_min_weight: Values = None
    tracked_max_weight: Values = None
    input_bits: Optional[int] = None
    input_scale: Values = None
    input_zero_point: Values = None
    tracked_min_input: Values = None
    tracked_max_input: Values = None
    output_bits: Optional[int] = None
    output_scale: Values = None
    output_zero_point: Values = None
    tracked_min_output: Values = None
    tracked_max_output: Values = None


def export_model(net: Block, model_path: PathLike, calibration_path: Optional[PathLike] = None,
                 onnx_path: Optional[PathLike] = None,
                 input_shape: Optional[Sequence[int]] = None) -> Dict[str, Dict[str, Any]]:
    """See `quantize.interfaces.nni.Quantizer.export_model`."""
    if onnx_path is not None and input_shape is None:
        raise ConfigError("export_model: onnx_path needs input_shape, for example (1, 3, 32, 32)")
    calibration = calibration_of(net)
    mx.nd.waitall()
    _write_parameters(net, model_path)
    if calibration_path is not None:
        write_whole(calibration_path, json.dumps(calibration, indent=1) + "\n")
    if onnx_path is not None and input_shape is not None:
        _write_onnx(net, onnx_path, tuple(input_shape))
    return calibration


def calibration_of(net: Block) -> Dict[str, Dict[str, Any]]:
    """Layer -> bits, scale, zero point and range of each operand that is quantized."""
    found: Dict[str, Dict[str, Any]] = {}
    for path, layer in quantized_layers(net):
        for name, quantizer in layer.quantizers():
            operand = name[:-len("_quantizer")]
            if operand != "weight" and not quantizer.calibrated:
                continue
            stored = operand != "weight" or quantizer.frozen or quantizer.mode == "offline"
            numbers = quantizer.get_qparams() if stored else quantizer.qparams_of(layer.effective_weight())
            found.setdefault(path, {}).update(_described(operand, quantizer.spec, numbers))
    return found


def _described(operand: str, spec: QuantSpec, numbers: QParams) -> Dict[str, Any]:
    middle = 0.5 if spec.grid == "mid_rise" else 0
    scale, zero = numbers.scale.astype(np.float64), numbers.zero_point
    return {operand + "_bits": spec.bits, operand + "_scale": _plain(scale), operand + "_zero_point": _plain(zero),
            "tracked_min_" + operand: _plain((spec.qmin - zero + middle) * scale),
            "tracked_max_" + operand: _plain((spec.qmax - zero + middle) * scale)}


def _plain(values: np.ndarray) -> Union[float, List[float]]:
    values = np.ravel(values)
    return values.tolist() if values.size > 1 else values[0].item()


def load_calibration(net: Block, calibration: Union[PathLike, Dict[str, Dict[str, Any]]]) -> None:
    """Set what `calibration_of` returned, or a JSON file with it: activations get `offline`, trained steps start so."""
    if not isinstance(calibration, dict):
        calibration = _read(calibration)
    checked(calibration, Dict[str, Operands], "calibration config", ConfigError)
    layers = dict(quantized_layers(net))
    for path, numbers in calibration.items():
        if path not in layers:
            raise ConfigError(f"calibration config: the network has no quantized layer {path!r}{closest(path, layers)}")
        held = {name[:-len("_quantizer")]: quantizer for name, quantizer in layers[path].quantizers()}
        for operand in ("weight", "input", "output"):
            if operand + "_bits" in numbers:
                _load(path, operand, held.get(operand), numbers)
    clear_cached_graphs(net)


def _read(path: PathLike) -> Dict[str, Dict[str, Any]]:
    return parse_json(read_text(path), f"calibration config {path}", ConfigError)


def _load(path: str, operand: str, quantizer: Optional[FakeQuantize], numbers: Dict[str, Any]) -> None:
    bits, scale, zero = (numbers.get(f"{operand}_{name}") for name in NAMES)
    if quantizer is None or bits != quantizer.spec.bits:
        here = "no quantizer" if quantizer is None else f"{quantizer.spec.bits} bits"
        raise ConfigError(f"calibration config: {path}: {operand} has {here} here, the config says {bits} bits")
    size = np.prod(quantizer.scale.shape)
    if scale is None or zero is None or np.size(scale) != size or np.size(zero) != size:
        raise ConfigError(f"calibration config: {path}: '{operand}_scale' and '{operand}_zero_point' must be "
                          f"{int(np.prod(quantizer.scale.shape))} numbers")
    if operand == "weight" and quantizer.training_mode == "online":
        return  # follows from the weights
    shape, spec = quantizer.scale.shape, quantizer.spec
    with np.errstate(over="ignore"):
        scales = np.float32(scale)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise ConfigError(f"calibration config: {path}: '{operand}_scale' must be above 0 and finite in float32, got "
                          f"{str(scale)[:60]}")
    if not (np.equal(np.mod(zero, 1), 0).all() and np.all(np.abs(zero) < 2 ** 16)):
        raise ConfigError(f"calibration config: {path}: '{operand}_zero_point' must be a code of {spec}, got "
                          f"{str(zero)[:60]}")
    quantizer.set_qparams(QParams(np.float32(scale).reshape(shape), np.int32(zero).reshape(shape)))
    quantizer.mode = "offline"


def _write_parameters(net: Block, path: PathLike) -> None:
    added = {id(parameter) for parameter in added_parameters(net)}
    values = {name: parameter.data().as_in_context(mx.cpu())
              for name, parameter in net._collect_params_with_prefix().items() if id(parameter) not in added}
    with whole_file(path) as temporary:
        mx.nd.save(str(temporary), values)
        check_params_size(temporary, values)


@contextlib.contextmanager
def _as_float(net: Block) -> Iterator[None]:
    """Context in which nothing of the quantizers is left in the graph."""
    frozen = [(quantizer, quantizer.frozen) for _, quantizer in quantizers(net)]
    try:
        with mode(net, "float"):
            for quantizer, _ in frozen:
                quantizer.frozen = True
            clear_cached_graphs(net)
            yield
    finally:
        for quantizer, before in frozen:
            quantizer.frozen = before
        clear_cached_graphs(net)


def _write_onnx(net: Block, path: PathLike, shape: Tuple[int, ...]) -> None:
    with _as_float(net), whole_file(path) as temporary:
        with as_written():
            symbol = net(mx.sym.var("data"))
        known = set(symbol.list_inputs())
        values = {name: parameter.data().as_in_context(mx.cpu())
                  for name, parameter in net.collect_params().items() if name in known}
        mx.onnx.export_model(symbol, values, [shape], np.float32, str(temporary))
