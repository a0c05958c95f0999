# SPDX-License-Identifier: MIT
"""The engine, where it is installed."""

import pytest


@pytest.fixture(scope="module")
def ncnn():
    """The wheel's module; tests that need it are skipped where it is absent."""
    return pytest.importorskip("ncnn", reason="the ncnn wheel is not installed")
