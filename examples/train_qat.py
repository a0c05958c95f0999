# SPDX-License-Identifier: MIT
"""Retrain a CNN with fake quantization: the command `gluon-quantize train` under its first name."""

import sys

from gluon_quantize.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
