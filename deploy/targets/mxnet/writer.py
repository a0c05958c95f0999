# SPDX-License-Identifier: MIT
"""The files: `NAME-symbol.json` and `NAME.params`, with integers or in float32."""

import logging
import pathlib
from typing import Tuple

from deploy.ir import Model
from deploy.ir.roundings import without_roundings
from deploy.study import in_float
from deploy.targets.mxnet.operators import Writing
from deploy.targets.mxnet.params import render as parameters
from quantize.files import PathLike, write_together

LOG = logging.getLogger(__name__)
SUFFIXES = ("-symbol.json", "-0000.params")


def render(model: Model, integers: bool = True) -> Tuple[str, bytes]:
    """The contents of both files; the same model, the same bytes.

    Parameters
    ----------
    integers : bool
        False: all layers compute in float32.
    """
    if not integers:
        model = without_roundings(in_float(model))
    writing = Writing(model)
    return writing.document(), parameters(writing.graph.parameters, writing.graph.auxiliary)


def write(model: Model, folder: PathLike, name: str, integers: bool = True) -> Tuple[pathlib.Path, ...]:
    """Write the files into an existing folder; their paths."""
    paths = tuple(pathlib.Path(folder) / (name + suffix) for suffix in SUFFIXES)
    write_together(dict(zip(paths, render(model, integers))))
    LOG.info("%s, %s", *paths)
    return paths
