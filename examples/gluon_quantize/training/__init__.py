# SPDX-License-Identifier: MIT
"""The training loop and what it works with."""
