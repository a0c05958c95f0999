# SPDX-License-Identifier: MIT
"""EasyQuant: the input scale of each layer with which its output keeps the direction of the float layer's output."""

import contextlib
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from calib.collect import collect
from quantize.errors import CalibrationError
from quantize.modes import clear_cached_graphs, quantized_layers
from quantize.spec import QParams

STEPS = 100
LOW, HIGH = 0.5, 2.0
IMAGES = 16
class _Reader(NamedTuple):
    block: Block
    is_layer: bool


def easyquant(net: Block, batches: Iterable, images: int = IMAGES, ctx: Optional[mx.Context] = None,
              progress: Callable[[Iterable], Iterable] = lambda items: items) -> Dict[str, float]:
    """Improve calibrated input ranges by a search on each layer's output; returns {path: threshold}.

    For each activation quantizer 100 scales from 0.5 to 2 times the calibrated one are tried, evenly spaced, and that
    one too; the one with the largest cosine between the outputs of the float layer and of the quantized layer (its
    weights quantized with their own range), over all `images` together, is stored. Layers get the *float* network's
    inputs, so the order of layers does not matter. Layers that share a quantizer are judged by the mean of their
    cosines; an output quantizer by its own output. A layer whose output is all zero keeps its scale.

    The paper searches the weights' scales in turn with the inputs'; here weights keep theirs. Source: Wu et al.,
    "EasyQuant", arXiv:2006.16669, section 3. ncnn's `method=eq` follows it, but crashes.

    Parameters
    ----------
    net : converted network
        Calibrated (kl or min-max are the usual start).
    batches : iterable
        As for `collect`; only the first `images` are used. Their feature maps are kept during the search.
    progress : function, optional
        Wraps the list of layers; for a progress bar.

    Raises
    ------
    CalibrationError
        For a network without calibrated ranges, or no images.
    """
    readers = _readers(net)
    for path, (quantizer, _) in readers.items():
        if not quantizer.calibrated:
            raise CalibrationError(f"{path}: no range to start from; calibrate first")
    kept = collect(net, _first(batches, images), {"kept": _Kept}, ctx=ctx)
    thresholds = {}
    with _plain(net):
        for path in progress(list(readers)):
            quantizer, users = readers[path]
            if not kept[path]["kept"].parts:
                raise CalibrationError(f"{path}: the network never calls this layer")
            x = mx.nd.array(np.concatenate(kept[path]["kept"].parts), ctx=ctx)
            _search(quantizer, users, x)
            thresholds[path] = float(quantizer.threshold.max())
    return thresholds


class _Kept:
    """Keeps what it is given."""

    def __init__(self):
        self.parts: List[np.ndarray] = []

    def update(self, x):
        self.parts.append(x)


def _first(batches, count):
    """Batches with the first `count` images."""
    for batch in batches:
        images = batch[0] if isinstance(batch, (list, tuple)) else batch
        yield images[:count]
        count -= len(images)
        if count <= 0:
            return


def _readers(net) -> Dict[str, tuple]:
    """Path of an activation quantizer -> (quantizer, what computes with it)."""
    found: Dict[str, tuple] = {}
    first: Dict[int, str] = {}
    for path, layer in quantized_layers(net):
        for name, quantizer in layer.quantizers():
            if name == "weight_quantizer":
                continue
            key = first.setdefault(id(quantizer), f"{path}.{name}")
            users = found.setdefault(key, (quantizer, []))[1]
            users.append(_Reader(layer, True) if name == "input_quantizer" else _Reader(quantizer, False))
    return found


def _search(quantizer, users, x):
    start = quantizer.get_qparams()
    wanted = []
    for user in users:
        _switch(user, quantizer, "float")
        wanted.append(user.block(x))
        _switch(user, quantizer, "offline")
    best, best_scale = _mean_cosine(users, x, wanted), start.scale
    if best is None:
        return
    for factor in np.linspace(LOW, HIGH, STEPS):
        scale = (start.scale * factor).astype(np.float32)
        if not (scale > 0).all():
            continue
        quantizer.set_qparams(QParams(scale, start.zero_point))
        cosine = _mean_cosine(users, x, wanted)
        if cosine is not None and cosine > best:
            best, best_scale = cosine, scale
    quantizer.set_qparams(QParams(best_scale, start.zero_point))


def _switch(user, quantizer, mode):
    quantizer.mode = mode
    weight = user.block.weight_quantizer if user.is_layer else None
    if weight is not None:
        weight.mode = "float" if mode == "float" else "online"


def _mean_cosine(users, x, wanted):
    """Mean over the layers of the cosine between output and wanted output; None where all wanted ones are zero."""
    cosines = []
    for user, target in zip(users, wanted):
        norm = target.norm().asscalar()
        if norm:
            output = user.block(x)
            product = (output.reshape(-1) * (target.reshape(-1) / norm)).sum().asscalar()
            cosines.append(float(product) / max(float(output.norm().asscalar()), 1e-30))
    return float(np.mean(cosines)) if cosines else None


@contextlib.contextmanager
def _plain(net):
    """Layers run singly and eagerly; modes and hybridization come back."""
    before = []
    for _, layer in quantized_layers(net):
        before.append((layer, layer._active, None))
        before += [(quantizer, quantizer._active, quantizer.mode) for _, quantizer in layer.quantizers()]
    clear_cached_graphs(net)
    for block, _, _ in before:
        block._active = False
    try:
        yield
    finally:
        for block, active, mode in before:
            block._active = active
            if mode is not None:
                block.mode = mode
        clear_cached_graphs(net)
