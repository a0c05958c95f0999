# SPDX-License-Identifier: MIT
"""The exception inside lowering; outside, all of them together are one DeployError."""


class Unsupported(Exception):
    """An operator or layer that cannot be lowered; the text says why."""
