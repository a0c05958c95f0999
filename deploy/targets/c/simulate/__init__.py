# SPDX-License-Identifier: MIT
"""Gluon networks as the C source computes them."""

from deploy.targets.c.simulate.fuse import FusedNetwork, fuse_qat, unfused_codes

__all__ = ["FusedNetwork", "fuse_qat", "unfused_codes"]
