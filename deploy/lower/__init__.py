# SPDX-License-Identifier: MIT
"""From a Gluon network (float, or converted and calibrated) to `ir.Model`.

The network is traced in float mode; operators become nodes one by one (`operators`), then passes over the `Draft`
name written-out functions, merge reshapes, move padding, BatchNorm and activations into layers.
"""

from deploy.lower.entry import lower, lower_front

__all__ = ["lower", "lower_front"]
