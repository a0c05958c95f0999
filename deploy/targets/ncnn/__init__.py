# SPDX-License-Identifier: MIT
"""Tencent's ncnn: what it can hold, how it computes, and its files."""

from deploy.target import find
from deploy.targets.ncnn.target import NcnnTarget

TARGET = find("ncnn")

__all__ = ["NcnnTarget", "TARGET"]
