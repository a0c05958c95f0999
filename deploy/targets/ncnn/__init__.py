# SPDX-License-Identifier: MIT
"""Tencent's ncnn: what it can hold, how it computes, and its files."""
