# SPDX-License-Identifier: MIT
"""Train and test what an INI file of N2D2 describes: the command `gluon-quantize n2d2`."""

import sys

from gluon_quantize.commands.n2d2 import main

if __name__ == "__main__":
    sys.exit(main())
