# SPDX-License-Identifier: MIT
"""MXNet's own int8 operators (oneDNN): a symbol and parameters that run in MXNet 1.9.1 as it is."""

from deploy.targets.mxnet.target import MxnetTarget

__all__ = ["MxnetTarget"]
