# SPDX-License-Identifier: MIT
"""The files that ncnn loads: `<name>.param` and `<name>.bin`, in integers or in float32."""

import logging
import pathlib
from typing import Collection, Tuple

from deploy import ir
from deploy.targets.ncnn.binary import write_binary
from deploy.targets.ncnn.network import to_network, without_16_bits
from deploy.targets.ncnn.param import format_param
from quantize.files import PathLike, write_together

LOG = logging.getLogger(__name__)
SUFFIXES = (".param", ".bin")


def render(model: ir.Model, integers: bool = True, fp32: bool = False,
           fp32_layers: Collection[str] = ()) -> Tuple[str, bytes]:
    """Contents of the .param and the .bin; the same model gives the same bytes. `fp32`, `fp32_layers` as in `write`."""
    network, weights = to_network(model, integers)
    if fp32 or fp32_layers and integers:
        network = without_16_bits(network, None if fp32 else fp32_layers)
    return format_param(network), write_binary(network, weights)


def write(model: ir.Model, folder: PathLike, name: str = "model", integers: bool = True, fp32: bool = False,
          fp32_layers: Collection[str] = ()) -> Tuple[pathlib.Path, pathlib.Path]:
    """Write both files into an existing folder, both or none.

    Parameters
    ----------
    integers : bool
        False: all layers compute in float32, for comparison with the quantized network.
    fp32 : bool
        The files forbid 16-bit floats, which are ncnn's default on ARM.
    fp32_layers : collection of str
        Files in integers forbid them for these nodes and what their inputs are computed by (`network.without_16_bits`).

    Returns
    -------
    tuple of Path
        The .param and the .bin.
    """
    text, data = render(model, integers, fp32, fp32_layers)
    param, weights = (pathlib.Path(folder) / (name + suffix) for suffix in SUFFIXES)
    write_together({weights: data, param: text})
    LOG.info("%s: %d bytes of weights for ncnn", weights, len(data))
    return param, weights
