# SPDX-License-Identifier: MIT
"""The engines that networks can be written for, one package each."""
