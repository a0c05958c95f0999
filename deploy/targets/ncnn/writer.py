# SPDX-License-Identifier: MIT
"""The files that ncnn loads: `<name>.param` and `<name>.bin`, in integers or in float32."""

import logging
import pathlib
from typing import Tuple

from deploy import ir
from deploy.targets.ncnn.binary import write_binary
from deploy.targets.ncnn.network import to_network
from deploy.targets.ncnn.param import format_param
from quantize.errors import QuantizeError
from quantize.files import write_whole

LOG = logging.getLogger(__name__)


def render(model: ir.Model, integers: bool = True) -> Tuple[str, bytes]:
    """Contents of the .param and the .bin; the same model gives the same bytes."""
    network, weights = to_network(model, integers)
    return format_param(network), write_binary(network, weights)


def write(model: ir.Model, folder, name: str = "model", integers: bool = True) -> Tuple[pathlib.Path, pathlib.Path]:
    """Write both files into an existing folder, both or none.

    Parameters
    ----------
    integers : bool
        False: all layers compute in float32, for comparison with the quantized network.

    Returns
    -------
    tuple of Path
        The .param and the .bin.
    """
    text, data = render(model, integers)
    paths = tuple(pathlib.Path(folder) / (name + suffix) for suffix in (".param", ".bin"))
    write_whole(paths[1], data)
    try:
        write_whole(paths[0], text)
    except QuantizeError:
        paths[1].unlink()
        raise
    LOG.info("%s: %d bytes of weights for ncnn", paths[1], len(data))
    return paths
