# SPDX-License-Identifier: MIT
"""Package metadata; tool settings are in pyproject.toml, the exact versions that are tested in requirements.txt.

On a GPU: the wheels `mxnet` (CPU) and `mxnet-cu112` both provide the module `mxnet`, and no requirement can say "one
of the two". The CPU wheel is required here, so that `pip install .` alone gives a working tool; for CUDA 11.2, replace
it afterwards (uninstalling removes files that both wheels own, hence the forced reinstall)::

    pip install '.[gpu]'
    pip uninstall -y mxnet
    pip install --force-reinstall --no-deps mxnet-cu112==1.9.1

pip then reports `mxnet` as missing (`pip check`); nothing else does.
"""

import os
import sys

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


class BuildWithOperators(build_py):
    """Compiles the native operators into the package; without a compiler the composed ones serve."""

    def run(self):
        """The packages, with the native operators beside them where they could be compiled."""
        from quantize.errors import QuantizeError
        from quantize.ops import build
        try:
            build.build()
        except QuantizeError as error:
            print(f"native operators not built: {error}", file=sys.stderr)
        super().run()


setup(
    name="gluon-quantize",
    version="0.1.0",
    description="Simulate, calibrate, retrain and deploy quantized Gluon CNNs (MXNet 1.9.1)",
    author="the quantize authors",
    license="MIT",
    cmdclass={"build_py": BuildWithOperators},
    package_data={"quantize.ops": ["_native/*.so", "csrc/*"]},
    packages=find_packages(include=["quantize", "quantize.*", "calib", "calib.*", "deploy", "deploy.*"]),
    python_requires=">=3.8,<3.12",
    install_requires=[
        "mxnet==1.9.1",
        "numpy>=1.20,<1.24",  # MXNet 1.9.1 uses np.bool, which numpy 1.24 removed
        "scipy>=1.8,<1.16",  # from 1.16 on it needs a newer numpy
        "gluoncv==0.10.5.post0",
        "onnx>=1.14,<1.18",
        "protobuf>=3.20.2",
        "requests>=2.20,<3",
        "Pillow>=9",
        "portalocker",
        "tqdm",
    ],
    extras_require={
        "gpu": ["mxnet-cu112==1.9.1"],
        "ncnn": ["ncnn>=1.0.20240102"],  # the engine itself, to verify and measure what was deployed
        "test": ["pytest>=7", "hypothesis>=6", "onnxruntime>=1.16", "ncnn>=1.0.20260526", "matplotlib>=3.7",
                 "ruff"],
    },
)
