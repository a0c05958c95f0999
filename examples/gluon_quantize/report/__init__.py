# SPDX-License-Identifier: MIT
"""Results as text, files and pictures."""
