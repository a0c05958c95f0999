# SPDX-License-Identifier: MIT
"""``python -m gluon_quantize`` is the command `gluon-quantize`."""

import sys

from gluon_quantize.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
