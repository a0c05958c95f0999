# SPDX-License-Identifier: MIT
"""What proves a deployment: computations of one network compared blob by blob, and the certificate of what came out."""
