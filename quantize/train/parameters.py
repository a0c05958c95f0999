# SPDX-License-Identifier: MIT
"""Trained numbers of quantizers, apart from the weights: for rates and optimizers of their own."""

import itertools
from typing import Any, Dict, Optional, Tuple

from mxnet.gluon import Block, Parameter

from quantize.errors import ConfigError
from quantize.modes import quantizers, tile_quantizers


def quantizer_parameters(net: Block) -> Dict[str, Parameter]:
    """Path ("features.3.input_quantizer.alpha") -> Parameter of every number that a quantizer trains."""
    return {f"{path}.{name}": getattr(quantizer, name)
            for path, quantizer in itertools.chain(quantizers(net), tile_quantizers(net)) for name in quantizer.trained}


def solver_groups(net: Block) -> Dict[Tuple[Tuple[str, Any], ...], Dict[str, Parameter]]:
    """`quantizer_parameters`, by the solver that the configuration states for them (() for those without)."""
    found: Dict[Tuple[Tuple[str, Any], ...], Dict[str, Parameter]] = {}
    for path, quantizer in itertools.chain(quantizers(net), tile_quantizers(net)):
        for name in quantizer.trained:
            found.setdefault(quantizer.solver, {})[f"{path}.{name}"] = getattr(quantizer, name)
    return found


def weight_parameters(net: Block) -> Dict[str, Parameter]:
    """Name -> Parameter of all that is left: with `quantizer_parameters` for two Trainers, each with its optimizer."""
    trained = {id(parameter) for parameter in quantizer_parameters(net).values()}
    return {name: parameter for name, parameter in net.collect_params().items() if id(parameter) not in trained}


def set_rates(net: Block, lr_mult: Optional[float] = None, wd_mult: Optional[float] = None) -> None:
    """Learning rate and weight decay of quantizers' trained numbers, as multiples of the optimizer's.

    Both are 1 at first, but weight decay leaves steps of LSQ and offsets of LSQ+ alone. A Trainer reads them when it is
    made.
    """
    for name, value in (("lr_mult", lr_mult), ("wd_mult", wd_mult)):
        if value is not None and not 0 <= value < float("inf"):
            raise ConfigError(f"{name} must be a number from 0, got {value!r}")
    for parameter in quantizer_parameters(net).values():
        parameter.lr_mult = parameter.lr_mult if lr_mult is None else lr_mult
        parameter.wd_mult = parameter.wd_mult if wd_mult is None else wd_mult
