// SPDX-License-Identifier: MIT
// How scales lie over a tensor: element (o, p, i) of the view (outer, parts, inner) belongs to scale p.
#ifndef QUANTIZE_OPS_VIEW_H_
#define QUANTIZE_OPS_VIEW_H_

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace fq {

struct View {
  int64_t outer = 1;
  int64_t parts = 1;
  int64_t inner = 1;

  int64_t size() const { return outer * parts * inner; }
  int64_t per_part() const { return outer * inner; }
};

// axis < 0: one scale for the tensor; groups > 0: that many equal parts of the axis, else one part per index.
inline View make_view(const std::vector<int64_t>& shape, int axis, int64_t groups) {
  View view;
  const int ndim = static_cast<int>(shape.size());
  if (axis >= ndim) throw std::invalid_argument("axis " + std::to_string(axis) + " does not exist in a tensor of " +
                                                std::to_string(ndim) + " dimensions");
  if (axis < 0) {
    for (int64_t length : shape) view.inner *= length;
    return view;
  }
  for (int i = 0; i < axis; ++i) view.outer *= shape[i];
  for (int i = axis + 1; i < ndim; ++i) view.inner *= shape[i];
  view.parts = groups > 0 ? groups : shape[axis];
  if (groups > 0) {
    if (shape[axis] % groups) throw std::invalid_argument(std::to_string(shape[axis]) + " channels cannot be split into " +
                                                          std::to_string(groups) + " equal groups");
    view.inner *= shape[axis] / groups;
  }
  return view;
}

// A tensor is cut into units: consecutive elements of one part, at most kUnit of them. Results of units are combined in
// their order, so that sums do not depend on the number of threads.
class Units {
 public:
  static const int64_t kUnit = 32768;

  explicit Units(const View& view)
      : inner_(view.inner), parts_(view.parts), pieces_((view.inner + kUnit - 1) / kUnit),
        count_(view.outer * view.parts * pieces_) {}

  int64_t count() const { return count_; }
  int64_t part(int64_t unit) const { return unit / pieces_ % parts_; }
  int64_t begin(int64_t unit) const { return unit / pieces_ * inner_ + unit % pieces_ * kUnit; }
  int64_t length(int64_t unit) const { return std::min<int64_t>(kUnit, inner_ - unit % pieces_ * kUnit); }

 private:
  int64_t inner_, parts_, pieces_, count_;
};

}  // namespace fq

#endif  // QUANTIZE_OPS_VIEW_H_
