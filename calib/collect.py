# SPDX-License-Identifier: MIT
"""Run batches through a converted network and collect what its activation quantizers see."""

import contextlib
from typing import Dict, Iterable, Optional

import mxnet as mx
from mxnet.gluon import Block, HybridBlock

from calib.calibrators import Calibrator
from calib.observers import Observer
from quantize.errors import CalibrationError, DataError
from quantize.modes import clear_cached_graphs, mode, quantizers


def observe(net: Block, batches: Iterable, calibrator: Calibrator, observers: Optional[Dict[str, Observer]] = None,
            ctx=None) -> Dict[str, Observer]:
    """One pass over the data in float; every activation quantizer's input is observed.

    Parameters
    ----------
    net : converted network
    batches : iterable of NDArray, or of (NDArray, label) pairs
    calibrator : Calibrator
        Says which observer is needed.
    observers : dict, optional
        Observers of an earlier pass, which go on.
    ctx : Context, optional
        Where the batches are sent.

    Returns
    -------
    dict
        Structural path of the quantizer -> observer.

    Raises
    ------
    CalibrationError
        When there is no batch, or nothing to calibrate.
    DataError
        For NaN or infinity, with the quantizer's path.
    """
    chosen = dict(quantizers(net, "activation"))
    if not chosen:
        raise CalibrationError("nothing to calibrate: no activation of the network is quantized")
    if observers is None:
        observers = {path: calibrator.new_observer() for path in chosen}
    for path, quantizer in chosen.items():
        quantizer.observer = _Named(path, observers[path])
    try:
        with mode(net, "float", "weight"), mode(net, "observe", "activation"), _eager(net):
            count = _run(net, batches, ctx)
    finally:
        for quantizer in chosen.values():
            quantizer.observer = None
    if not count:
        raise CalibrationError("the calibration set is empty: no batch came")
    return observers


def calibrate(net: Block, observers: Dict[str, Observer], calibrator: Calibrator) -> Dict[str, float]:
    """Decide and store the range of every activation quantizer; returns {path: threshold} in real units."""
    thresholds = {}
    for path, quantizer in quantizers(net, "activation"):
        if path not in observers:
            raise CalibrationError("{}: was not observed".format(path))
        try:
            quantizer.set_qparams(calibrator(observers[path], quantizer.spec))
        except CalibrationError as error:
            raise CalibrationError("{}: {}".format(path, error)) from None
        thresholds[path] = float(quantizer.threshold.max())
    clear_cached_graphs(net)
    return thresholds


def _run(net, batches, ctx):
    count = 0
    for batch in batches:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        net(images if ctx is None else images.as_in_context(ctx))
        mx.nd.waitall()
        count += 1
    return count


class _Named:
    """Adds the quantizer's path to what an observer complains about."""

    def __init__(self, path, observer):
        self.path, self.observer = path, observer

    def update(self, x):
        try:
            self.observer.update(x)
        except DataError as error:
            raise DataError("{}: {}".format(self.path, error)) from None


@contextlib.contextmanager
def _eager(net):
    """Hybridization off for the time; each block's own setting comes back."""
    active = []

    def switch_off(block):
        if isinstance(block, HybridBlock):
            active.append((block, block._active))
            block._active = False
    net.apply(switch_off)
    try:
        yield
    finally:
        for block, was_active in active:
            block._active = was_active
        clear_cached_graphs(net)
