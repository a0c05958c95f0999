# SPDX-License-Identifier: MIT
"""Golden Stick's `SimulatedQuantizationAwareTraining` for Gluon networks."""

import logging
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

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
    "per_channel": (False, "true or false", _is_bool),
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


class SimQAT(Interface):
    """Quantization-aware training after Krishnamoorthi (arXiv:1806.08342) with one call.

        algo = SimQAT({"per_channel": (False, True), "symmetric": (False, True), "bn_fold": True, "quant_delay": 900})
        net = algo.apply(net)
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9})
        algo.count_steps(trainer)
        ...                                # the loop as it was
        algo.eval()                        # ranges stand still; algo.train() lets them follow the batches again

    Every convolution and Dense gets quantizers for its input, weight and output. Pairs are (activations,
    weights), and one value stands for both.

    ============= ============== ========================================================================
    key           default        becomes
    ============= ============== ========================================================================
    quant_delay   (0, 0)         `StartQuantization` at these steps
    quant_dtype   (INT8, INT8)   bits; INT1 to INT16
    per_channel   (False, False) ``/channel`` for weights; activations have one scale
    symmetric     (False, False) a zero point or none
    narrow_range  (False, False) the lowest code stays unused (-127..127)
    bn_fold       False          `fake_bn`
    one_conv_fold True           one convolution (statistics "batch"), or two with the correction ("corrected")
    freeze_bn     10000000       `FreezeBatchNorm` at this step
    ema_decay     0.999          of the ranges of activations
    enable_fusion False          nothing: BatchNorm is found in the graph either way
    ============= ============== ========================================================================

    What differs on purpose: ranges are moving averages that are corrected for their start, instead of starting at
    -6..6; symmetric activations are unsigned where the graph proves that they cannot be negative; steps are counted by
    the Trainer (`count_steps`); `bn_fold` needs no `enable_fusion` beside it.

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
            raise ConversionError(f"{self.net.name}: this SimQAT was applied to a network already; make one for each")
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

    def _operands(self) -> List[_Operand]:
        return [_Operand(**{key: self.config[key][i] for key in PAIRS}) for i in (0, 1)]

    def _hooks(self, net: Block) -> Iterator[Hook]:
        for delay, kind in zip(self.config["quant_delay"], ("activation", "weight")):
            if delay:
                yield StartQuantization(net, delay, [path for path, _ in quantizers(net, kind)])
        if self.config["freeze_bn"] != NEVER:
            yield FreezeBatchNorm(net, self.config["freeze_bn"])


def _layer_types(network: Block) -> Tuple[str, ...]:
    found = {row.name for row in (quantizable(block) for _, block in walk(network)) if row and row.has_weight}
    if not found:
        raise ConfigError(f"{network.name}: has no {', '.join(WEIGHTED[:-1])} or {WEIGHTED[-1]} to quantize")
    return tuple(sorted(found))


def _checked(config: Dict[str, Any]) -> Dict[str, Any]:
    if not isinstance(config, dict):
        raise ConfigError(f"SimQAT: the config must be a dictionary, got {config!r}")
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
                              f"{' or a pair of these (activations, weights)' if key in PAIRS else ''}, got {value!r}")
        found[key] = tuple(values) if key in PAIRS else value
    if found["per_channel"][0]:
        raise ConfigError("SimQAT: 'per_channel': activations have one scale for a layer: write (False, "
                          f"{found['per_channel'][1]})")
    return found
