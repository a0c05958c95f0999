# SPDX-License-Identifier: MIT
"""What runs in the engine's own process; a folder to itself, since Python looks for modules beside a program."""
