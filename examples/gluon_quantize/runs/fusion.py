# SPDX-License-Identifier: MIT
"""A retrained network fused to whole numbers, in every scaling: how many codes stay, and what the network is worth."""

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
from mxnet.gluon import Block

from deploy.targets.c.scaling import SCALINGS
from deploy.targets.c.simulate import bytes_grid, fuse_qat, unfused_codes


@dataclass
class Fused:
    """What one scaling came to.

    Attributes
    ----------
    scaling : str
    codes, same : int
        Codes that layers read, and how many of them are those before the fusion.
    images, right : int
        Test images, and how many are recognized.
    network : FusedNetwork
    """

    scaling: str
    codes: int = 0
    same: int = 0
    images: int = 0
    right: int = 0
    network: Any = None


def compare_fused(net: Block, input_shape: Tuple[int, ...], batches: Iterable[Tuple[Any, np.ndarray]],
                  scale: Optional[float]) -> List[Fused]:
    """Every scaling of a network on images, each against the network as it stands.

    Parameters
    ----------
    batches : iterable of (NDArray (n, channels, height, width), labels (n,))
    scale : float, optional
        Images are bytes times this number; None: any numbers.
    """
    networks: Dict[str, Any] = {}
    input_grid = bytes_grid(scale)
    found: Dict[str, Fused] = {name: Fused(name) for name in SCALINGS}
    first: Any = None
    for images, labels in batches:
        images = images.asnumpy()
        if first is None:  # its values tell how fine 16 bits can be, where a layer rounds no input
            first = images
            networks = {name: fuse_qat(net, input_shape, name, input_grid, first) for name in SCALINGS}
        before = unfused_codes(net, input_shape, images, input_grid, first)
        for name, network in networks.items():
            result, codes = found[name], network.codes(images)
            result.network = network
            result.codes += sum(values.size for values in codes.values())
            result.same += sum(int((values == before[layer]).sum()) for layer, values in codes.items())
            result.images += len(images)
            result.right += int((network(images).reshape(len(images), -1).argmax(axis=1) == labels).sum())
    return list(found.values())
