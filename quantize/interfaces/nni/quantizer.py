# SPDX-License-Identifier: MIT
"""What NNI's quantizers have in common; `quantize.interfaces.nni` says what differs from NNI."""

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import mxnet as mx
from mxnet.gluon import Block, Trainer

from quantize.config import Format, Rule
from quantize.convert import convert_model, fake_bn
from quantize.convert.subclasses import settle_relu6
from quantize.errors import ConfigError, ConversionError
from quantize.files import PathLike
from quantize.interfaces.base import Interface
from quantize.interfaces.nni.config import (
    QUANT_TYPES,
    SCHEMES,
    LayerSetting,
    check_config_list,
    layer_settings,
)
from quantize.interfaces.nni.export import export_model, load_calibration
from quantize.modes import quantizers
from quantize.train import StartQuantization


class Quantizer(Interface):
    """What NNI's quantizers have in common.

    Parameters
    ----------
    model : HybridBlock
        A float network.
    config_list : list of dict
    optimizer : gluon.Trainer, optional
        One that has made no step yet.
    dummy_input : NDArray, optional
        Completes unknown shapes, and asks for folded BatchNorm.

    Raises
    ------
    ConfigError
        Naming the entry and its key.
    """

    method = "ste"
    quant_types: Tuple[str, ...] = QUANT_TYPES
    schemes: Tuple[str, ...] = SCHEMES
    weight_scheme = activation_scheme = "per_tensor_symmetric"
    momentum = 0.99

    def __init__(self, model: Block, config_list: Sequence[Dict[str, Any]], optimizer: Optional[Trainer] = None,
                 dummy_input: Optional[mx.nd.NDArray] = None) -> None:
        super().__init__()
        check_config_list(config_list, self.quant_types)
        if any("ReLU6" in entry.get("op_types", ()) for entry in config_list):
            settle_relu6(model)
        self.model, self.optimizer, self.dummy_input = model, optimizer, dummy_input
        self.settings = layer_settings(model, config_list)

    def compress(self) -> Block:
        """The network in training with quantization; changed in place and returned."""
        self._convert()
        self._follow(self.net, self._starts, self.optimizer)
        return self.net

    def _convert(self) -> None:
        if self.net is not None:
            raise ConversionError(f"{self.model.name}: the network is compressed already")
        self.net = convert_model(self.model, convert_fn={}, config_list=self._rules(), example_input=self.dummy_input)
        for _, quantizer in quantizers(self.net, "activation"):
            quantizer.momentum = self.momentum
        if self.dummy_input is not None and any(e.norm and e.weight is not None for e in self.net.plan.entries):
            fake_bn(self.net)

    def _rules(self) -> List[Rule]:
        methods: Dict[str, Any] = {key: self.method for key in ("weight_method", "input_method", "output_method")}
        return [Rule(op_names=(setting.path,), reason=setting.where, **{
            **methods, **{name: self._format(setting, name) for name in setting.types}}) for setting in self.settings]

    def _format(self, setting: LayerSetting, quant_type: str) -> Format:
        usual = self.weight_scheme if quant_type == "weight" else self.activation_scheme
        scheme = setting.chosen(quant_type, "quant_scheme") or usual
        dtype = setting.chosen(quant_type, "quant_dtype") or "uint"
        per, kind = scheme[len("per_"):].split("_")
        allowed = [name for name in self.schemes if quant_type == "weight" or name.startswith("per_tensor")]
        if scheme not in allowed:
            raise ConfigError(f"{setting.where}: 'quant_scheme' of {quant_type} must be {' or '.join(allowed)} for "
                              f"{type(self).__name__}, got {scheme}")
        granularity = "channel" if per == "channel" else "layer"
        if kind == "affine":
            return Format(setting.bits(quant_type), dtype == "int", granularity, symmetric=False, narrow=False)
        signed = True if quant_type == "weight" or dtype == "int" else None
        return Format(setting.bits(quant_type), signed, granularity)

    def _starts(self, net: Block) -> Iterator[StartQuantization]:
        """Hooks that start quantization later."""
        by_step: Dict[int, List[str]] = {}
        for setting in self.settings:
            by_step.setdefault(setting.start_step, []).extend(
                f"{setting.path}.{name}_quantizer" for name in setting.types)
        present = {path for path, _ in quantizers(net)}
        for step, names in sorted(by_step.items()):
            names = [name for name in names if name in present]
            if step and names:
                yield StartQuantization(net, step, names)

    def export_model(self, model_path: PathLike, calibration_path: Optional[PathLike] = None,
                     onnx_path: Optional[PathLike] = None, input_shape: Optional[Sequence[int]] = None,
                     device: Any = None) -> Dict[str, Dict[str, Any]]:
        """Write the float weights, and what quantization does with them.

        Parameters
        ----------
        model_path : path
            Gluon parameters that the float network loads.
        calibration_path : path, optional
            JSON of what is returned.
        onnx_path : path, optional
            The float network (folded BatchNorm merged); needs `input_shape`.
        device
            Not used; there because scripts pass it.

        Returns
        -------
        dict
            Layer -> {weight_bits, weight_scale, weight_zero_point, tracked_min_weight, tracked_max_weight, and the same
            for input and output}; lists where there is one for each channel.
        """
        evaluating = bool(self._moving)
        self.eval()
        try:
            return export_model(self._converted(), model_path, calibration_path, onnx_path, input_shape)
        finally:
            if not evaluating:
                self.train()

    def load_calibration_config(self, calibration_config: Union[PathLike, Dict[str, Dict[str, Any]]]) -> None:
        """Take over what `export_model` returned, or the file that it wrote; ranges then stand still.

        ConfigError for layers, operands and bits that this network does not have.
        """
        load_calibration(self._converted(), calibration_config)
        self._moving = []
