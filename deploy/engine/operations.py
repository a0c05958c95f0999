# SPDX-License-Identifier: MIT
"""The table of operations: node type -> function(node, inputs, arithmetic) -> output, or a tuple of outputs.

Blobs have a batch axis in front. Real-valued arrays are float32. An operation never writes into its inputs; its output
may be a view of them.
"""

from typing import Callable, Dict

OPERATIONS: Dict[type, Callable] = {}


def operation(node_type: type) -> Callable[[Callable], Callable]:
    """Decorator that enters a function for a node type into `OPERATIONS`."""
    def store(function):
        OPERATIONS[node_type] = function
        return function
    return store
