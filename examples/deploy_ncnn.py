# SPDX-License-Identifier: MIT
"""Deploy a CNN to ncnn: the command `gluon-quantize deploy` under its first name."""

import sys

from gluon_quantize.commands.deploy import main

if __name__ == "__main__":
    sys.exit(main())
