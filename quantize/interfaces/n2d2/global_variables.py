# SPDX-License-Identifier: MIT
"""N2D2's switches, which scripts set before they make a network."""

#: number of the GPU that is computed on, where MXNet has one
cuda_device = 0
#: "Frame": the CPU; "Frame_CUDA": the GPU
default_model = "Frame"
