# SPDX-License-Identifier: MIT
"""Train one network in several processes: the command `gluon-quantize train-distributed` under its first name."""

import sys

from gluon_quantize.commands.train_distributed import main

if __name__ == "__main__":
    sys.exit(main())
