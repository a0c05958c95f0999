# SPDX-License-Identifier: MIT
"""Golden Stick's `SimulatedQuantizationAwareTraining` for Gluon networks."""

import logging
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple

import mxnet as mx
from mxnet.gluon import Block

from quantize.config import Format, Rule
from quantize.convert import convert_model, fake_bn
from quantize.convert.layers import WEIGHTED, quantizable
from quantize.errors import ConfigError, ConversionError
from quantize.interfaces.base import Interface
from quantize.modes import quantizers
from quantize.registry import closest
from quantize.train import FreezeBatchNorm, Hook, StartQuantization
from quantize.tree import walk

logger = logging.getLogger(__name__)

NEVER = 10000000
_DTYPE = re.compile(r"INT([0-9]{1,9})$")


def _is_steps(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_dtype(value: Any) -> bool:
    match = _DTYPE.match(str(value).split(".")[-1])
    return match is not None and 1 <= int(match.group(1)) <= 16


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not _is_bool(value) and 0 <= value < 1


# key -> (default, what it is, whether a value will do); of those in PAIRS a pair of values: activations, weights
KEYS = {
    "quant_delay": (0, "a number of steps from 0", _is_steps),
    "quant_dtype": ("INT8", "INT1 to INT16", _is_dtype),
    "per_channel": ((False, True), "true or false", _is_bool),
    "symmetric": (False, "true or false", _is_bool),
    "narrow_range": (False, "true or false", _is_bool),
    "bn_fold": (False, "true or false", _is_bool),
    "one_conv_fold": (True, "true or false", _is_bool),
    "enable_fusion": (False, "true or false", _is_bool),
    "freeze_bn": (NEVER, "a number of steps from 0", _is_steps),
    "ema_decay": (0.999, "a number from 0 to below 1", _is_share),
}
PAIRS = ("quant_delay", "quant_dtype", "per_channel", "symmetric", "narrow_range")


@dataclass(frozen=True)
class _Operand:
    """What the pairs say of activations, or of weights."""

    quant_delay: int
    quant_dtype: Any
    per_channel: bool
    symmetric: bool
    narrow_range: bool

    def format(self, signed: Optional[bool] = True) -> Format:
        """As the core has it; `signed` is for symmetric grids."""
        bits = int(_DTYPE.findall(str(self.quant_dtype))[0])
        return Format(bits, signed if self.symmetric else True, "channel" if self.per_channel else "layer",
                      self.symmetric, self.narrow_range)


class SimulatedQuantizationAwareTraining(Interface):
    """Quantization-aware training after Krishnamoorthi (arXiv:1806.08342) with one call.

        algo = SimQAT({"per_channel": (False, True), "symmetric": (False, True), "bn_fold": True, "quant_delay": 900})
        net = algo.apply(net)
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9})
        algo.count_steps(trainer)
        ...                                # the loop as it was
        algo.eval()                        # ranges stand still; algo.train() lets them follow the batches again

    Every convolution and Dense gets quantizers for its input, weight and output. Pairs are (activations,
    weights), and one value stands for both. ``set_act_quant_delay(900)``, ``set_weight_per_channel(False)``,
    ``set_bn_fold(True)`` and the like change a key before `apply`: ``set_act_`` and ``set_weight_`` for what is a pair.

    ============= ============== ========================================================================
    key           default        becomes
    ============= ============== ========================================================================
    quant_delay   (0, 0)         `StartQuantization` at these steps
    quant_dtype   (INT8, INT8)   bits; INT1 to INT16
    per_channel   (False, True)  ``/channel`` for weights; activations have one scale
    symmetric     (False, False) a zero point or none
    narrow_range  (False, False) the lowest code stays unused (-127..127)
    bn_fold       False          `fake_bn`
    one_conv_fold True           one convolution (statistics "batch"), or two with the correction ("corrected")
    freeze_bn     10000000       `FreezeBatchNorm` at this step
    ema_decay     0.999          of the ranges of activations
    enable_fusion False          nothing: BatchNorm is found in the graph either way
    ============= ============== ========================================================================

    What differs on purpose: weights have one scale for each channel by default, as the networks that Golden Stick's
    page prints (its source has False); ranges are moving averages that are corrected for their start, instead of
    starting at -6..6; symmetric activations are unsigned where the graph proves that they cannot be negative; steps are
    counted by the Trainer (`count_steps`); `bn_fold` needs no `enable_fusion` beside it.

    Raises
    ------
    ConfigError
        Naming the key.
    """

    def __init__(self, config: Optional[Dict[str, Any]] = None) -> None:
        super().__init__()
        self.config = _checked(config or {})

    def apply(self, network: Block, example_input: Optional[mx.nd.NDArray] = None) -> Block:
        """The network with quantizers; changed in place and returned.

        Parameters
        ----------
        example_input : NDArray, optional
            Completes parameters of unknown shape.
        """
        if self.net is not None:
            self._too_late()
        activations, weights = self._operands()
        rule = Rule(_layer_types(network), weight=weights.format(), input=activations.format(None),
                    output=activations.format(None), reason="SimQAT")
        net = convert_model(network, convert_fn={}, config_list=[rule], example_input=example_input)
        for _, quantizer in quantizers(net, "activation"):
            quantizer.momentum = self.config["ema_decay"]
        if self.config["bn_fold"]:
            fake_bn(net, "batch" if self.config["one_conv_fold"] else "corrected")
        self._follow(net, self._hooks, None)
        if any(self.config["quant_delay"]) or self.config["freeze_bn"] != NEVER:
            logger.warning("%s: quant_delay and freeze_bn wait for steps: call count_steps(trainer)", net.name)
        return net

    def _too_late(self) -> NoReturn:
        name = self._converted().name
        raise ConversionError(f"{name}: this SimQAT was applied to a network already; make one for each")

    def _set(self, **changed: Any) -> None:
        if self.net is not None:
            self._too_late()
        self.config = _checked({**self.config, **changed})

    def _set_operand(self, index: int, key: str, value: Any) -> None:
        pair = list(self.config[key])
        pair[index] = value
        self._set(**{key: tuple(pair)})

    def set_act_quant_delay(self, act_quant_delay: int) -> None:
        """Steps after which activations are rounded."""
        self._set_operand(0, "quant_delay", act_quant_delay)

    def set_weight_quant_delay(self, weight_quant_delay: int) -> None:
        """Steps after which weights are rounded."""
        self._set_operand(1, "quant_delay", weight_quant_delay)

    def set_act_quant_dtype(self, act_quant_dtype: Any = "INT8") -> None:
        """Bits of activations."""
        self._set_operand(0, "quant_dtype", act_quant_dtype)

    def set_weight_quant_dtype(self, weight_quant_dtype: Any = "INT8") -> None:
        """Bits of weights."""
        self._set_operand(1, "quant_dtype", weight_quant_dtype)

    def set_act_per_channel(self, act_per_channel: bool = False) -> None:
        """Only False: activations have one scale for a layer."""
        self._set_operand(0, "per_channel", act_per_channel)

    def set_weight_per_channel(self, weight_per_channel: bool = True) -> None:
        """A scale for each channel of the weights, or one."""
        self._set_operand(1, "per_channel", weight_per_channel)

    def set_act_symmetric(self, act_symmetric: bool = False) -> None:
        """Activations without a zero point."""
        self._set_operand(0, "symmetric", act_symmetric)

    def set_weight_symmetric(self, weight_symmetric: bool = False) -> None:
        """Weights without a zero point."""
        self._set_operand(1, "symmetric", weight_symmetric)

    def set_act_narrow_range(self, act_narrow_range: bool = False) -> None:
        """The lowest code of activations stays unused."""
        self._set_operand(0, "narrow_range", act_narrow_range)

    def set_weight_narrow_range(self, weight_narrow_range: bool = False) -> None:
        """The lowest code of weights stays unused."""
        self._set_operand(1, "narrow_range", weight_narrow_range)

    def set_bn_fold(self, bn_fold: bool = False) -> None:
        """Fold BatchNorm into the weights."""
        self._set(bn_fold=bn_fold)

    def set_one_conv_fold(self, one_conv_fold: bool = True) -> None:
        """Fold with one convolution, or with two and the correction."""
        self._set(one_conv_fold=one_conv_fold)

    def set_enable_fusion(self, enable_fusion: bool = False) -> None:
        """Nothing; see the table above."""
        self._set(enable_fusion=enable_fusion)

    def set_freeze_bn(self, freeze_bn: int = NEVER) -> None:
        """Step at which the statistics of BatchNorm stand still."""
        self._set(freeze_bn=freeze_bn)

    def _operands(self) -> List[_Operand]:
        return [_Operand(**{key: self.config[key][i] for key in PAIRS}) for i in (0, 1)]

    def _hooks(self, net: Block) -> Iterator[Hook]:
        for delay, kind in zip(self.config["quant_delay"], ("activation", "weight")):
            if delay:
                yield StartQuantization(net, delay, [path for path, _ in quantizers(net, kind)])
        if self.config["freeze_bn"] != NEVER:
            yield FreezeBatchNorm(net, self.config["freeze_bn"])


SimQAT = SimulatedQuantizationAwareTraining  # as Golden Stick's page imports it


def _layer_types(network: Block) -> Tuple[str, ...]:
    found = {row.name for row in (quantizable(block) for _, block in walk(network)) if row and row.has_weight}
    if not found:
        raise ConfigError(f"{network.name}: has no {', '.join(WEIGHTED[:-1])} or {WEIGHTED[-1]} to quantize")
    return tuple(sorted(found))


def _checked(config: Dict[str, Any]) -> Dict[str, Any]:
    if not isinstance(config, dict):
        raise ConfigError(f"SimQAT: the config must be a dictionary, got {config!r:.200}")
    for key in config:
        if key not in KEYS:
            raise ConfigError(f"SimQAT: unknown key {key!r}; known: {', '.join(KEYS)}{closest(key, KEYS)}")
    found = {}
    for key, (default, what, fits) in KEYS.items():
        value = config.get(key, default)
        values = list(value) if isinstance(value, (list, tuple)) and key in PAIRS else [value]
        if key in PAIRS and len(values) == 1:
            values *= 2
        if len(values) != (2 if key in PAIRS else 1) or not all(fits(item) for item in values):
            raise ConfigError(f"SimQAT: {key!r} must be {what}"
                              f"{' or a pair of these (activations, weights)' if key in PAIRS else ''}, got "
                              f"{value!r:.200}")
        found[key] = tuple(values) if key in PAIRS else value
    if found["per_channel"][0]:
        raise ConfigError("SimQAT: 'per_channel': activations have one scale for a layer: write (False, "
                          f"{found['per_channel'][1]})")
    return found
