# SPDX-License-Identifier: MIT
"""From a converted network to one that is ready to be trained."""

from typing import Optional, Sequence, Union

import numpy as np
from mxnet import MXNetError, autograd, nd
from mxnet.gluon import Block

from quantize.errors import CalibrationError, DataError, last_line
from quantize.finite import as_ndarrays, check_inputs, check_parameters
from quantize.modes import clear_cached_graphs, eager, mode, quantizers
from quantize.nn.fake_quantize import FakeQuantize

Inputs = Union[nd.NDArray, Sequence[nd.NDArray]]


def start_training(net: Block, batch: Optional[Inputs] = None, ranges: str = "ema") -> None:
    """Put every quantizer into the mode in which its method trains.

    Trained steps of activations that no calibration has set start from one batch, run in float: 2 * mean|x| /
    sqrt(qmax) (LSQ), or its range (LSQ+).

    Parameters
    ----------
    batch : NDArray or tuple of NDArray, optional
        Network inputs; only needed when a step has no start yet.
    ranges : {"ema", "online", "offline"}
        For activations of methods that train no numbers (STE): moving averages of ranges, the range of each batch, or
        the calibrated ones.

    Raises
    ------
    CalibrationError
        When a batch is needed and not given, naming a quantizer; when `offline` is asked for and nothing is calibrated.
    DataError
        For NaN or infinity in the batch, or in a parameter, which is named.
    """
    check_parameters(net)
    batch = as_ndarrays(batch, "start_training")
    check_inputs(batch)
    activations = list(quantizers(net, "activation"))
    unset = [(path, quantizer) for path, quantizer in activations
             if quantizer.start is not None and not quantizer.calibrated]
    if unset:
        if batch is None:
            raise CalibrationError(f"{len(unset)} trained steps have no start yet (first: {unset[0][0]}); calibrate "
                                   "the network, or pass a batch")
        _measure(net, batch, [quantizer for _, quantizer in unset])
    for path, quantizer in activations:
        new = ranges if quantizer.training_mode == "online" else "offline"
        if new == "offline" and not quantizer.calibrated:
            raise CalibrationError(f"{path} has no calibrated range yet; calibrate first, or train with other ranges")
        quantizer.mode = new
    for _, quantizer in quantizers(net, "weight"):
        quantizer.mode = quantizer.training_mode
    clear_cached_graphs(net)


class _Start:
    """Observer that starts its quantizer from the first tensor it sees."""

    def __init__(self, quantizer: FakeQuantize) -> None:
        self.start, self.seen = quantizer.start, False

    def update(self, x: np.ndarray) -> None:
        """Start, once."""
        if not self.seen and self.start is not None:
            self.start(x)
            self.seen = True


def _measure(net: Block, batch: Inputs, chosen: Sequence[FakeQuantize]) -> None:
    with mode(net, "float"), eager(net), autograd.train_mode():
        for quantizer in chosen:
            quantizer.observer, quantizer.mode = _Start(quantizer), "observe"
        try:
            parts = batch if isinstance(batch, (list, tuple)) else (batch,)
            net(*parts)
        except (MXNetError, TypeError) as error:  # a wrong shape, or another number of inputs
            raise DataError(f"start_training: the network cannot take a batch of {len(parts)} inputs, of the shapes "
                            f"{', '.join(str(part.shape) for part in parts)}: {last_line(error)}") from None
        finally:
            for quantizer in chosen:
                quantizer.observer = None
