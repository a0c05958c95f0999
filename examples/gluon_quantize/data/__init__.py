# SPDX-License-Identifier: MIT
"""Images: data sets, decoding, preprocessing, batches."""
