# SPDX-License-Identifier: MIT
"""What the commands do, without printing: a request goes in, a result comes out."""
