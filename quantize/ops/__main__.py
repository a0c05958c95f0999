# SPDX-License-Identifier: MIT
"""``python -m quantize.ops`` says which back ends are available, ``... build`` compiles the native one."""

import argparse
import sys
from typing import Optional, Sequence

from quantize.errors import ConfigError
from quantize.ops import build, native


def show() -> int:
    """One line for each back end."""
    reason = native.why_not()
    sys.stdout.write("composed  available\n")
    available = reason or f"available: {build.LIBRARY}"
    sys.stdout.write(f"native    {available}\n")
    if not reason:
        on_gpu = "not built (needs nvcc and the mxnet-cu112 wheel): composed serves"
        if native.runs_on_gpu():
            on_gpu = "available"
        sys.stdout.write(f"  on GPU  {on_gpu}\n")
    return 0


def compile_native(force: bool) -> int:
    """Build; without a compiler say what is lost and go on, since the composed operators serve."""
    if force or not build.up_to_date():
        sys.stderr.write("Compiling the native operators (about 20 s; once)\n")
    try:
        sys.stdout.write(f"native operators: {build.build(force)}\n")
    except ConfigError as error:
        sys.stderr.write(f"native operators not built: {error}\nThe composed operators serve; they are several times "
                         "slower."
                         "\n")
        return 1 if build.find_compiler() else 0
    return 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m quantize.ops", description=__doc__)
    parser.add_argument("action", nargs="?", choices=("show", "build"), default="show", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="build even where the present library fits")
    args = parser.parse_args(argv)
    return compile_native(args.force) if args.action == "build" else show()


if __name__ == "__main__":
    sys.exit(main())
