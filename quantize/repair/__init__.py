# SPDX-License-Identifier: MIT
"""Float networks changed so that they lose less when they are quantized, computing the same meanwhile."""
