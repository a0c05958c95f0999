# SPDX-License-Identifier: MIT
"""N2D2's way to describe, train and quantize a network: cells, solvers, fillers, quantizers, and its INI files.

Scripts for N2D2 run with their imports changed::

    import quantize.interfaces.n2d2 as n2d2             # for: import n2d2
    import quantize.interfaces.n2d2 as n2d2_ip          # for: import n2d2_ip
    from quantize.interfaces.n2d2.cells.nn import Conv  # for: from n2d2.cells.nn import Conv
"""

from quantize.interfaces.n2d2 import (
    activation,
    cells,
    database,
    filler,
    global_variables,
    provider,
    quantizer,
    solver,
    target,
    transform,
)
from quantize.interfaces.n2d2.config_section import ConfigSection

__all__ = ["ConfigSection", "activation", "cells", "database", "filler", "global_variables", "provider", "quantizer",
           "solver", "target", "transform"]
