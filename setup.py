# SPDX-License-Identifier: MIT
"""What a static description of the package cannot say: native operators are compiled when a wheel is made.

Names, versions and requirements are in pyproject.toml, the exact versions that are tested in requirements.txt.
"""

import os
import sys

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class BuildWithOperators(build_py):
    """Adds the compiled operators to the package; without a compiler the composed ones serve."""

    def run(self):
        """The packages, with the native operators beside them where they could be compiled."""
        from quantize.errors import QuantizeError
        from quantize.ops import build
        super().run()
        try:
            library = build.build()
        except QuantizeError as error:
            print(f"native operators not built: {error}", file=sys.stderr)
            return
        if not self.editable_mode:  # an editable install finds the library where it was built
            target = os.path.join(self.build_lib, "quantize", "ops", "_native")
            self.mkpath(target)
            self.copy_file(str(library), target)


class WithOperators(Distribution):
    """A distribution for one platform, where there is a compiler."""

    def has_ext_modules(self):
        """Whether the wheel will hold machine code."""
        from quantize.ops import build
        return build.find_compiler() is not None or build.up_to_date()  # one that was compiled before goes in, too


class AnyPython(bdist_wheel):
    """The operators are loaded by MXNet and know nothing of Python, so that one wheel serves every version of it."""

    def get_tag(self):
        """(Python, ABI, platform), the last one "any" where nothing was compiled."""
        return ("py3", "none", super().get_tag()[2])


setup(cmdclass={"build_py": BuildWithOperators, "bdist_wheel": AnyPython}, distclass=WithOperators)
