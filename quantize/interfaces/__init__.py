# SPDX-License-Identifier: MIT
"""Names that users of other tools know, thin over `quantize.convert` and `quantize.train`: `nni`, `simqat`."""
