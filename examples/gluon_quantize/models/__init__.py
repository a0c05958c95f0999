# SPDX-License-Identifier: MIT
"""Networks: embedded ones, gluoncv's, and those from files."""
