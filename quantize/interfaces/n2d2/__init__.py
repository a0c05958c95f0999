# SPDX-License-Identifier: MIT
"""N2D2's way to describe, train and quantize a network: cells, solvers, fillers, quantizers, and its INI files."""
