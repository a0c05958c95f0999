# SPDX-License-Identifier: MIT
"""Calibration: observers collect statistics of activations, calibrators decide ranges from them."""
