// SPDX-License-Identifier: MIT
#include "loops.h"

#include <cstring>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#if defined(__x86_64__) && !defined(FQ_NO_CLONES)
#define FQ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define FQ_FMA_CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#else
#define FQ_CLONES
#define FQ_FMA_CLONES
#endif

namespace fq {
namespace {

// dy where `pass`, else 0, by its bits: as a choice it becomes a masked load, which waits for the mask.
FQ_INLINE float kept(bool pass, float dy) {
  int32_t bits;
  std::memcpy(&bits, &dy, sizeof(bits));
  bits &= -static_cast<int32_t>(pass);
  std::memcpy(&dy, &bits, sizeof(dy));
  return dy;
}

// One function for each rounding and form, so that the loop holds no branch and target_clones has no template to clone.
#define FQ_FAKE(NAME, R, MULTIPLY)                                                                        \
  FQ_CLONES void fake_##NAME(const float* __restrict__ x, float* __restrict__ y, int64_t n, const Part p, \
                             float qmin, float qmax) {                                                    \
    for (int64_t i = 0; i < n; ++i) y[i] = fake<R, MULTIPLY>(x[i], p, qmin, qmax);                        \
  }                                                                                                       \
  FQ_CLONES void mask_##NAME(const float* __restrict__ x, const float* __restrict__ dy,                   \
                             float* __restrict__ dx, int64_t n, const Part p, float qmin, float qmax) {   \
    for (int64_t i = 0; i < n; ++i) dx[i] = kept(inside<R, MULTIPLY>(x[i], p, qmin, qmax), dy[i]);        \
  }

FQ_FAKE(away_divide, kHalfAway, false)
FQ_FAKE(away_multiply, kHalfAway, true)
FQ_FAKE(even_divide, kHalfEven, false)
FQ_FAKE(even_multiply, kHalfEven, true)
FQ_FAKE(rise_divide, kMidRise, false)
FQ_FAKE(rise_multiply, kMidRise, true)
#undef FQ_FAKE

typedef void (*fake_fn)(const float*, float*, int64_t, const Part, float, float);
typedef void (*mask_fn)(const float*, const float*, float*, int64_t, const Part, float, float);

// Sixteen running sums in double, added up in a fixed order: vectorisable, and the same on every machine.
const int kLanes = 16;

double total(const double* lanes) {
  double sum = 0;
  for (int k = 0; k < kLanes; ++k) sum += lanes[k];
  return sum;
}

#define FQ_LSQ(NAME, R)                                                                                          \
  FQ_CLONES double lsq_##NAME(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, \
                              int64_t n, float step, float qmin, float qmax) {                                   \
    double lanes[kLanes] = {0};                                                                                  \
    const Part p = {step, 0.f, 0.f};                                                                             \
    int64_t i = 0;                                                                                               \
    for (; i + kLanes <= n; i += kLanes) {                                                                       \
      for (int k = 0; k < kLanes; ++k) {                                                                         \
        lanes[k] += static_cast<double>(dy[i + k] * step_slope<R>(x[i + k], step, qmin, qmax));                  \
        dx[i + k] = kept(inside<R, false>(x[i + k], p, qmin, qmax), dy[i + k]);                                  \
      }                                                                                                          \
    }                                                                                                            \
    for (; i < n; ++i) {                                                                                         \
      lanes[0] += static_cast<double>(dy[i] * step_slope<R>(x[i], step, qmin, qmax));                            \
      dx[i] = kept(inside<R, false>(x[i], p, qmin, qmax), dy[i]);                                                \
    }                                                                                                            \
    return total(lanes);                                                                                         \
  }

FQ_LSQ(away, kHalfAway)
FQ_LSQ(even, kHalfEven)
#undef FQ_LSQ

// Magnitudes of floats order like their bits, and integer maxima vectorise without any licence to reorder floats.
FQ_CLONES int32_t absmax_bits(const float* __restrict__ x, int64_t n) {
  const int32_t* bits = reinterpret_cast<const int32_t*>(x);
  int32_t peak = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t magnitude = bits[i] & 0x7fffffff;
    peak = magnitude > peak ? magnitude : peak;
  }
  return peak;
}

FQ_CLONES int32_t max_bits(const float* __restrict__ x, int64_t n) {
  const int32_t* bits = reinterpret_cast<const int32_t*>(x);
  int32_t peak = 0;
  for (int64_t i = 0; i < n; ++i) {
    // minus infinity and NaN of either sign win, so that they are refused
    const int32_t magnitude = bits[i] & 0x7fffffff;
    const int32_t key = magnitude >= 0x7f800000 ? magnitude : bits[i];
    peak = key > peak ? key : peak;
  }
  return peak;
}

// Negative floats order backwards; flipping their lower bits makes every float order like an integer.
FQ_CLONES void minmax_bits(const float* __restrict__ x, int64_t n, int32_t* low, int32_t* high) {
  const int32_t* bits = reinterpret_cast<const int32_t*>(x);
  int32_t least = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t key = bits[i] ^ ((bits[i] >> 31) & 0x7fffffff);
    least = key < least ? key : least;
    most = key > most ? key : most;
  }
  *low = least;
  *high = most;
}

float from_bits(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// `kept` everywhere, since choices between constants become branches, which do not vectorise.
FQ_CLONES double pact_back_clone(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
                                 int64_t n, float alpha) {
  double lanes[kLanes] = {0};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      lanes[k] += static_cast<double>(kept(x[i + k] >= alpha, dy[i + k]));
      dx[i + k] = kept(pact_inside(x[i + k], alpha), dy[i + k]);
    }
  }
  for (; i < n; ++i) {
    lanes[0] += static_cast<double>(kept(x[i] >= alpha, dy[i]));
    dx[i] = kept(pact_inside(x[i], alpha), dy[i]);
  }
  return total(lanes);
}

FQ_INLINE float calibrated_slope(float x, float alpha, float scale, float levels) {
  const float error = round_steps<kHalfAway>(x / scale) / levels - x / alpha;
  return kept(x >= alpha, 1.f) + kept((x > 0.f) & (x < alpha), error);
}

FQ_CLONES double pact_calibrated_clone(const float* __restrict__ x, const float* __restrict__ dy,
                                       float* __restrict__ dx, int64_t n, float alpha, float levels) {
  double lanes[kLanes] = {0};
  const float scale = alpha / levels;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      lanes[k] += static_cast<double>(dy[i + k] * calibrated_slope(x[i + k], alpha, scale, levels));
      dx[i + k] = kept(pact_inside(x[i + k], alpha), dy[i + k]);
    }
  }
  for (; i < n; ++i) {
    lanes[0] += static_cast<double>(dy[i] * calibrated_slope(x[i], alpha, scale, levels));
    dx[i] = kept(pact_inside(x[i], alpha), dy[i]);
  }
  return total(lanes);
}

FQ_CLONES void sign_clone(const float* __restrict__ x, float* __restrict__ y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = sign(x[i]);
}

FQ_CLONES void sign_back_clone(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx,
                               int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] = kept(sign_inside(x[i]), dy[i]);
}

FQ_CLONES void simd_codes_clone(const float* __restrict__ x, float* __restrict__ y, int64_t n, float multiplier,
                                float qmax) {
  for (int64_t i = 0; i < n; ++i) {
    const float steps = x[i] * multiplier;
    const float half = copysignf(0.5f, steps);
    const float code = static_cast<float>(static_cast<int>(bounded(steps) + half));
    y[i] = steps < 2147483648.f ? clip(code, -qmax, qmax) : -qmax;
  }
}

FQ_FMA_CLONES void multiply_add_clone(const float* __restrict__ x, float* __restrict__ y, int64_t n, float factor,
                                      float term) {
  for (int64_t i = 0; i < n; ++i) y[i] = __builtin_fmaf(x[i], factor, term);
}

// Elements that a loop hands on at a time: they stay in the innermost cache.
const int64_t kBlock = 2048;

void store_past_cache(const float* from, float* to, int64_t n) {
#ifdef __SSE__
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
  for (; i < n; ++i) to[i] = from[i];
#else
  std::memcpy(to, from, n * sizeof(float));
#endif
}

// Calls body(at, to, count) block by block. `stream`: results go past the caches, since an ordinary store first reads the
// line that it overwrites; for tensors larger than the caches that is a third of the traffic.
template <typename Body>
void in_blocks(float* y, int64_t n, bool stream, const Body& body) {
  stream = stream && reinterpret_cast<uintptr_t>(y) % 16 == 0;
  alignas(64) float buffer[kBlock];
  for (int64_t i = 0; i < n; i += kBlock) {
    const int64_t count = n - i < kBlock ? n - i : kBlock;
    body(i, stream ? buffer : y + i, count);
    if (stream) store_past_cache(buffer, y + i, count);
  }
}

}  // namespace

void fake_loop(const float* x, float* y, int64_t n, const Part& part, const Grid& grid, bool stream) {
  static const fake_fn table[3][2] = {{fake_away_divide, fake_away_multiply},
                                      {fake_even_divide, fake_even_multiply},
                                      {fake_rise_divide, fake_rise_multiply}};
  const fake_fn rows = table[grid.rounding][part.multiplier != 0.f];
  in_blocks(y, n, stream, [&](int64_t at, float* to, int64_t count) {
    rows(x + at, to, count, part, grid.qmin, grid.qmax);
  });
}

void mask_loop(const float* x, const float* dy, float* dx, int64_t n, const Part& part, const Grid& grid, bool stream) {
  static const mask_fn table[3][2] = {{mask_away_divide, mask_away_multiply},
                                      {mask_even_divide, mask_even_multiply},
                                      {mask_rise_divide, mask_rise_multiply}};
  const mask_fn rows = table[grid.rounding][part.multiplier != 0.f];
  in_blocks(dx, n, stream, [&](int64_t at, float* to, int64_t count) {
    rows(x + at, dy + at, to, count, part, grid.qmin, grid.qmax);
  });
}

double lsq_loop(const float* x, const float* dy, float* dx, int64_t n, float step, const Grid& grid, bool stream) {
  const auto rows = grid.rounding == kHalfEven ? lsq_even : lsq_away;
  double sum = 0;
  in_blocks(dx, n, stream, [&](int64_t at, float* to, int64_t count) {
    sum += rows(x + at, dy + at, to, count, step, grid.qmin, grid.qmax);
  });
  return sum;
}

// Rounding before clipping gives the same codes: alpha is `levels` steps.
void pact_loop(const float* x, float* y, int64_t n, float alpha, float levels, bool stream) {
  fake_loop(x, y, n, Part{alpha / levels, 0.f, 0.f}, Grid{0.f, levels, kHalfAway}, stream);
}

double pact_back_loop(const float* x, const float* dy, float* dx, int64_t n, float alpha, float levels,
                      bool calibrated) {
  return calibrated ? pact_calibrated_clone(x, dy, dx, n, alpha, levels) : pact_back_clone(x, dy, dx, n, alpha);
}

void sign_loop(const float* x, float* y, int64_t n) { sign_clone(x, y, n); }

void sign_back_loop(const float* x, const float* dy, float* dx, int64_t n) { sign_back_clone(x, dy, dx, n); }

void simd_codes_loop(const float* x, float* y, int64_t n, float multiplier, float qmax) {
  simd_codes_clone(x, y, n, multiplier, qmax);
}

void multiply_add_loop(const float* x, float* y, int64_t n, float factor, float term) {
  multiply_add_clone(x, y, n, factor, term);
}

float absmax_loop(const float* x, int64_t n, bool is_signed) {
  return from_bits(is_signed ? absmax_bits(x, n) : max_bits(x, n));
}

void minmax_loop(const float* x, int64_t n, float* low, float* high) {
  int32_t least, most;
  minmax_bits(x, n, &least, &most);
  *low = from_bits(least ^ ((least >> 31) & 0x7fffffff));
  *high = from_bits(most);
}

}  // namespace fq
