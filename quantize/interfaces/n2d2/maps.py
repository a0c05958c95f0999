# SPDX-License-Identifier: MIT
"""Pictures of feature maps at their bits: every pixel one of the levels that the cell's output has."""

import math
import pathlib
from typing import List, Tuple

import mxnet as mx
import numpy as np

from quantize.files import PathLike, whole_file
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.parameters import file_name
from quantize.interfaces.n2d2.pictures import can_draw

MAPS = 16  # of a cell, the first ones
ENDING = "_outputs_quant.png"


def draw_feature_maps(network: CellNetwork, images: mx.nd.NDArray, folder: PathLike) -> List[pathlib.Path]:
    """``CELL_outputs_quant.png`` of each cell whose output is quantized, for the first image.

    Nothing but a warning without matplotlib.
    """
    if not can_draw("feature maps"):
        return []
    made = []
    for name, codes, highest in quantized_outputs(network, images[:1]):
        made.append(_draw(codes, highest, name, pathlib.Path(folder) / (file_name(name) + ENDING)))
    return made


def quantized_outputs(network: CellNetwork, images: mx.nd.NDArray) -> List[Tuple[str, np.ndarray, int]]:
    """(Cell, codes (channels, height, width) of the first image, highest code) of each cell with a quantized output."""
    net = network.built
    carriers = {cell.name: network.places[cell.name] for cell in network.computed
                if cell.activation.quantizer is not None}
    values = net.values_of(images, [place.output for place in carriers.values()]) if carriers else {}
    found = []
    for name, place in carriers.items():
        block = net._children[place.carrier].output_quantizer
        if block.mode != "offline" or not block.calibrated:
            continue  # no training has begun, and no range is known
        codes = np.rint(values[place.output].asnumpy()[0] / block.get_qparams().scale.ravel()[0]).astype(np.int64)
        planes = codes.reshape(codes.shape if codes.ndim == 3 else (1, 1, -1))
        found.append((name, planes, int(block.spec.qmax)))
    return found


def _draw(codes: np.ndarray, highest: int, name: str, path: pathlib.Path) -> pathlib.Path:
    from matplotlib import pyplot
    shown = codes[:MAPS]
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, places = pyplot.subplots(rows, columns, figsize=(1.7 * columns + 1, 1.7 * rows + 0.6), squeeze=False)
    levels = np.arange(highest + 2) - 0.5
    colours = pyplot.get_cmap("viridis", highest + 1)
    for axes in places.ravel():
        axes.set_axis_off()
    for axes, plane in zip(places.ravel(), shown):
        picture = axes.imshow(plane, cmap=colours, vmin=levels[0], vmax=levels[-1], interpolation="nearest",
                              aspect="equal" if len(plane) > 1 else "auto")
    figure.colorbar(picture, ax=places.ravel().tolist(), label="code",
                    ticks=np.unique(np.linspace(0, highest, 6).astype(int)))
    bits = highest.bit_length()
    figure.suptitle(f"{name}: {len(shown)} of {len(codes)} feature maps, {bits} bits, "
                    f"{len(np.unique(codes))} of {highest + 1} levels", fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(str(temporary), format="png", dpi=90, metadata={"Software": None})
    pyplot.close(figure)
    return path
