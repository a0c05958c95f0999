# SPDX-License-Identifier: MIT
"""NNI's `ObserverQuantizer`: watch, then quantize, without training."""

import contextlib
from typing import Any, Callable, Dict, List, Optional, Sequence

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Trainer

from quantize import reference
from quantize.errors import CalibrationError
from quantize.interfaces.nni.quantizer import Quantizer
from quantize.modes import clear_cached_graphs, eager, quantizers, set_mode
from quantize.spec import QParams, QuantSpec


class ObserverQuantizer(Quantizer):
    """Before `compress` the network computes in float and its activations are watched; afterwards it is quantized.

        quantizer = ObserverQuantizer(net, config_list)
        for images in batches:
            net(images)
        quantizer.compress()

    Weights are symmetric, inputs and outputs affine, as in NNI, whose `reduce_range` (7 bits) engines here do not need.
    The network is not hybridized while it is watched. About 100 images serve; when accuracy is low, another calibrator
    serves better than fewer images.

    Parameters
    ----------
    calibrator : calib.calibrators.Calibrator, optional
        Decides the ranges; by default they are all that was seen.

    Raises
    ------
    CalibrationError
        By `compress`, when the network has seen no images.
    """

    activation_scheme = "per_tensor_affine"

    def __init__(self, model: Block, config_list: Sequence[Dict[str, Any]], optimizer: Optional[Trainer] = None,
                 dummy_input: Optional[mx.nd.NDArray] = None, calibrator: Any = None) -> None:
        super().__init__(model, config_list, optimizer, dummy_input)
        self._calibrator = calibrator
        self._convert()
        set_mode(self.net, "float", "weight")
        for _, quantizer in quantizers(self.net, "activation"):
            quantizer.observer = _Range() if calibrator is None else calibrator.new_observer()
        set_mode(self.net, "observe", "activation")
        self._watching = contextlib.ExitStack()
        self._watching.enter_context(eager(self.net))

    def compress(self) -> Block:
        """The quantized network."""
        decide: Callable[[Any, QuantSpec], QParams] = self._calibrator or _Range.decide
        for path, quantizer in quantizers(self.net, "activation"):
            try:
                quantizer.set_qparams(decide(quantizer.observer, quantizer.spec))
            except CalibrationError as error:
                raise CalibrationError(f"{path}: {error}; run the network on some images before compress()") from None
        for _, quantizer in quantizers(self.net, "activation"):
            quantizer.observer, quantizer.mode = None, "offline"
        set_mode(self.net, "online", "weight")
        self._watching.close()
        clear_cached_graphs(self.net)
        return self.net


class _Range:
    """Smallest and largest value ever seen."""

    def __init__(self) -> None:
        self.ends: List[float] = []

    def update(self, x: np.ndarray) -> None:
        """One tensor."""
        ends = self.ends + [float(x.min()), float(x.max())]
        self.ends = [min(ends), max(ends)]

    def decide(self, spec: QuantSpec) -> QParams:
        """The grid that covers it."""
        if not self.ends:
            raise CalibrationError("was not observed")
        return reference.qparams_of_range(self.ends[0], self.ends[1], spec)
