// SPDX-License-Identifier: MIT
#ifndef TESTS_BENCH_CUDA_BANDWIDTH_H_
#define TESTS_BENCH_CUDA_BANDWIDTH_H_

#include <string>

// Times every kernel on a tensor of images x channels x elements ("64x64x3136") beside a copy of it; prints a table.
void time_kernels(const std::string& shape, int repeats);

#endif  // TESTS_BENCH_CUDA_BANDWIDTH_H_
