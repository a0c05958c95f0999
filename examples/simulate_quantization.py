# SPDX-License-Identifier: MIT
"""Simulate the quantization of a CNN: the command `gluon-quantize simulate` under its first name."""

import sys

from gluon_quantize.commands.simulate import main

if __name__ == "__main__":
    sys.exit(main())
