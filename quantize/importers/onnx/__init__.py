# SPDX-License-Identifier: MIT
"""Reading ONNX files: `import_onnx`, and `onnx_program` for the steps alone.

`file` reads one, `facts` evaluates what needs no image, `graph` shows the rest to the functions in `operators`, which
plan the steps of a `quantize.importers.graph_block.GraphBlock`.
"""

from quantize.importers.onnx.importer import import_onnx, onnx_program
from quantize.importers.onnx.operators import OPERATORS

__all__ = ["OPERATORS", "import_onnx", "onnx_program"]
