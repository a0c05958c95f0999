# SPDX-License-Identifier: MIT
"""The application: from the files a person has to a quantized network, its deployment, and the proof."""
