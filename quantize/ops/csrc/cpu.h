// SPDX-License-Identifier: MIT
// Whole tensors on the CPU: units spread over OpenMP threads.
#ifndef QUANTIZE_OPS_CPU_H_
#define QUANTIZE_OPS_CPU_H_

#include <vector>

#include "loops.h"
#include "view.h"

namespace fq {

// Calls body(unit) for every unit; tensors of one or two units stay on the calling thread.
template <typename Body>
void for_units(const Units& units, const Body& body) {
  const int64_t count = units.count();
#pragma omp parallel for schedule(static) if (count > 2)
  for (int64_t unit = 0; unit < count; ++unit) body(unit);
}

// Tensors of 32 MiB and more are not expected to be read from the caches.
inline bool past_caches(const View& view) { return view.size() >= 8 << 20; }

inline void fake_tensor(const float* x, float* y, const View& view, const std::vector<Part>& parts, const Grid& grid) {
  const Units units(view);
  const bool stream = past_caches(view);
  for_units(units, [&](int64_t u) {
    fake_loop(x + units.begin(u), y + units.begin(u), units.length(u), parts[units.part(u)], grid,
              stream);
  });
}

inline void mask_tensor(const float* x, const float* dy, float* dx, const View& view, const std::vector<Part>& parts,
                        const Grid& grid) {
  const Units units(view);
  const bool stream = past_caches(view);
  for_units(units, [&](int64_t u) {
    const int64_t at = units.begin(u);
    mask_loop(x + at, dy + at, dx + at, units.length(u), parts[units.part(u)], grid, stream);
  });
}

// Adds up one number per unit into its part, in the order of the units.
inline std::vector<double> sum_by_part(const Units& units, const std::vector<double>& sums, int64_t parts) {
  std::vector<double> result(parts, 0.0);
  for (int64_t u = 0; u < units.count(); ++u) result[units.part(u)] += sums[u];
  return result;
}

inline std::vector<float> absmax_tensor(const float* x, const View& view, bool is_signed) {
  const Units units(view);
  std::vector<float> peaks(units.count());
  for_units(units, [&](int64_t u) { peaks[u] = absmax_loop(x + units.begin(u), units.length(u), is_signed); });
  std::vector<float> result(view.parts, 0.f);
  // written so that NaN wins
  for (int64_t u = 0; u < units.count(); ++u) {
    float& peak = result[units.part(u)];
    if (!(peaks[u] <= peak)) peak = peaks[u];
  }
  return result;
}

inline void minmax_tensor(const float* x, const View& view, std::vector<float>* low, std::vector<float>* high) {
  const Units units(view);
  std::vector<float> lows(units.count()), highs(units.count());
  for_units(units, [&](int64_t u) { minmax_loop(x + units.begin(u), units.length(u), &lows[u], &highs[u]); });
  low->assign(view.parts, 0.f);
  high->assign(view.parts, 0.f);
  for (int64_t u = 0; u < units.count(); ++u) {
    float& least = (*low)[units.part(u)];
    float& most = (*high)[units.part(u)];
    if (!(lows[u] >= least)) least = lows[u];
    if (!(highs[u] <= most)) most = highs[u];
  }
}

}  // namespace fq

#endif  // QUANTIZE_OPS_CPU_H_
