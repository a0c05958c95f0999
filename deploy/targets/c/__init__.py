# SPDX-License-Identifier: MIT
"""C99 source without dependencies, heap or floating point, for processors that run nothing else."""

from deploy.targets.c.target import CTarget

__all__ = ["CTarget"]
