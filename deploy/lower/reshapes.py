# SPDX-License-Identifier: MIT
"""Reshapes that are not needed."""

from dataclasses import replace

from deploy.ir import InnerProduct, Reshape
from deploy.lower.draft import Draft


def merge_reshapes(draft: Draft):
    """A reshape reads what the reshapes before it read, a fully connected layer flattens by itself."""
    for node in draft.nodes(Reshape, InnerProduct):
        source = node.inputs[0]
        while isinstance(draft.writer(source), Reshape):
            source = draft.writer(source).inputs[0]
        draft.put(replace(node, inputs=(source,)))
        if isinstance(node, Reshape) and draft.shapes[source] == node.shape:
            draft.bypass(node, source)
