# SPDX-License-Identifier: MIT
"""What a phone with Python, NumPy and ncnn does not have."""

MODULES = ("mxnet", "gluoncv", "scipy", "PIL", "onnx", "google", "matplotlib", "jinja2", "msgspec", "pytest")
