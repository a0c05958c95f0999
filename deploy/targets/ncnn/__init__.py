# SPDX-License-Identifier: MIT
"""Tencent's ncnn: what it can hold, how it computes, and its files."""

from deploy.targets.ncnn.target import NcnnTarget

TARGET = NcnnTarget()

__all__ = ["NcnnTarget", "TARGET"]
