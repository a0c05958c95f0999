# SPDX-License-Identifier: MIT
"""Gluon networks as the C source computes them."""

from deploy.targets.c.simulate.fuse import FusedNetwork, bytes_grid, fuse_qat, unfused_codes

__all__ = ["FusedNetwork", "bytes_grid", "fuse_qat", "unfused_codes"]
