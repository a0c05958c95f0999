# SPDX-License-Identifier: MIT
"""From a converted network to files an engine runs, with proof: IR, lowering, integer engine, targets, verification."""
