// SPDX-License-Identifier: MIT
// Loops over consecutive elements of one part, compiled for several instruction sets and chosen at run time.
#ifndef QUANTIZE_OPS_LOOPS_H_
#define QUANTIZE_OPS_LOOPS_H_

#include <cstdint>

#include "grid.h"

namespace fq {

// `stream`: write past the caches.
void fake_loop(const float* x, float* y, int64_t n, const Part& part, const Grid& grid, bool stream);
void mask_loop(const float* x, const float* dy, float* dx, int64_t n, const Part& part, const Grid& grid, bool stream);
// As mask_loop; returns the sum of dy * dy/dstep.
double lsq_loop(const float* x, const float* dy, float* dx, int64_t n, float step, const Grid& grid, bool stream);

void pact_loop(const float* x, float* y, int64_t n, float alpha, float levels, bool stream);
double pact_back_loop(const float* x, const float* dy, float* dx, int64_t n, float alpha, float levels, bool calibrated);
void sign_loop(const float* x, float* y, int64_t n);
void sign_back_loop(const float* x, const float* dy, float* dx, int64_t n);

// Codes as a SIMD engine computes them: clip(trunc(v + copysign(0.5, v))) with v = x * multiplier; what is no number, or
// at least 2^31, becomes -qmax, as the conversion to int32 makes it.
void simd_codes_loop(const float* x, float* y, int64_t n, float multiplier, float qmax);
// x * factor + term, rounded once.
void multiply_add_loop(const float* x, float* y, int64_t n, float factor, float term);

// Largest magnitude; for unsigned grids the largest value, at least 0. NaN and infinity give a value that is not finite.
float absmax_loop(const float* x, int64_t n, bool is_signed);
void minmax_loop(const float* x, int64_t n, float* low, float* high);

}  // namespace fq

#endif  // QUANTIZE_OPS_LOOPS_H_
