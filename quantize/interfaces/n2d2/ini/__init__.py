# SPDX-License-Identifier: MIT
"""N2D2's INI files: read, and turned into cells, databases and transformations."""
