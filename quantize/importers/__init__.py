# SPDX-License-Identifier: MIT
"""A model file becomes a HybridBlock made of ordinary Gluon layers: `.onnx.import_onnx`, `.symbol.import_symbol`.

Nothing is imported here, so that the onnx library is needed only by those who read ONNX files.
"""
