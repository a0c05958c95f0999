# SPDX-License-Identifier: MIT
"""Fixed ranges of input tiles that are rounded in the Winograd domain."""

from typing import Dict, Iterable

import numpy as np
from mxnet import nd
from mxnet.gluon import Block

from calib.feed import checked_batches
from quantize.errors import CalibrationError
from quantize.modes import clear_cached_graphs, eager, quantized_layers
from quantize.spec import QParams


def calibrate_tiles(net: Block, batches: Iterable, ctx=None) -> Dict[str, np.ndarray]:
    """Store the ranges of transformed tiles: the mean over images of the largest magnitude, as `naive` for inputs.

    Call it after the inputs are calibrated and switched to these ranges: tiles are seen as the quantized network
    transforms them, but not yet rounded themselves. One pass, layer by layer; hybridization stays as it is.

    Parameters
    ----------
    net : converted network
    batches : iterable
        As for `calib.collect.collect`.

    Returns
    -------
    dict
        Structural path of the layer -> threshold, (1,) or (positions,). Empty where no layer rounds tiles.

    Raises
    ------
    CalibrationError
        When there is no batch, or a layer's input is not quantized.
    """
    layers = {path: layer for path, layer in quantized_layers(net)
              if getattr(layer, "tile_quantizer", None) is not None}
    if not layers:
        return {}
    for path, layer in layers.items():
        if layer.input_quantizer.mode in ("float", "observe"):
            raise CalibrationError("{}: its input is not quantized now; switch inputs on first (quantize_input)".format(
                path))
        layer.tile_quantizer.observer = _Peaks()
    try:
        with eager(net):
            for batch in checked_batches(batches, ctx):
                net(batch)
                nd.waitall()
        return {path: _store(path, layer.tile_quantizer) for path, layer in layers.items()}
    finally:
        for layer in layers.values():
            layer.tile_quantizer.observer = None
        clear_cached_graphs(net)


class _Peaks:
    """The sum over images of the largest magnitude at each position, and the number of images."""

    def __init__(self):
        self.total, self.images = 0.0, 0

    def update(self, tiles):
        """Take in (images, positions, channels, rows, columns)."""
        peaks = np.maximum(tiles.max(axis=(2, 3, 4)), -tiles.min(axis=(2, 3, 4)))
        self.total = self.total + peaks.astype(np.float64).sum(axis=0)
        self.images += len(tiles)


def _store(path, quantizer) -> np.ndarray:
    peaks = quantizer.observer
    if not peaks.images:
        raise CalibrationError("{}: no image reached this layer, so its tiles have no range".format(path))
    thresholds = peaks.total / peaks.images
    if quantizer.scale.shape == (1,):
        thresholds = thresholds.max(keepdims=True)
    scale = (thresholds / quantizer.spec.max_level).astype(np.float32)
    quantizer.set_qparams(QParams.symmetric(np.where(scale > 0, scale, np.float32(1))))
    return quantizer.threshold.ravel()
