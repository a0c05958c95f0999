# SPDX-License-Identifier: MIT
"""The command line: parsers, and what is printed."""
