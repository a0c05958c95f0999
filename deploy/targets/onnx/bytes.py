# SPDX-License-Identifier: MIT
"""Grids as files have them: uint8 throughout."""

from deploy.ir import Grid

U8_CODES = 256


def first_code(grid: Grid) -> int:
    """The code that a file's uint8 begins with: files shift codes below zero, and their zero point, by 128."""
    return -U8_CODES // 2 if grid.qmin < 0 else 0


def u8_zero_point(grid: Grid) -> int:
    """The zero point as files have it."""
    return grid.zero_point - first_code(grid)
