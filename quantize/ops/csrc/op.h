// SPDX-License-Identifier: MIT
// What every operator shares: attributes, checks with the operator's name, shapes.
#ifndef QUANTIZE_OPS_OP_H_
#define QUANTIZE_OPS_OP_H_

#include <cmath>
#include <functional>
#include <limits>
#include <mutex>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "cpu.h"
#include "mxnet/lib_api.h"

namespace fq {

using mxnet::ext::MX_FAIL;
using mxnet::ext::MX_SUCCESS;
using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;

typedef std::unordered_map<std::string, std::string> Attrs;
typedef std::vector<MXTensor> Tensors;
typedef std::vector<std::vector<unsigned int>> Shapes;

// MXNet prints every message a library ever left; one slot that is written anew holds the last one alone.
inline void report(const std::string& message) {
  static std::mutex lock;
  static std::stringstream* slot = nullptr;
  std::lock_guard<std::mutex> guard(lock);
  if (slot == nullptr) slot = &MX_ERROR_MSG;
  slot->str("");
  *slot << message;
}

// Runs an operator's part; a failure is reported with the operator's name.
inline MXReturnValue guarded(const char* op, const std::function<void()>& body) {
  try {
    body();
    return MX_SUCCESS;
  } catch (const std::exception& error) {
    report(std::string(op) + ": " + error.what());
    return MX_FAIL;
  }
}

inline double number(const Attrs& attrs, const char* name, double fallback) {
  const auto found = attrs.find(name);
  if (found == attrs.end()) return fallback;
  try {
    size_t used = 0;
    const double value = std::stod(found->second, &used);
    if (used == found->second.size()) return value;
  } catch (const std::exception&) {
  }
  throw std::invalid_argument(std::string(name) + " must be a number, got '" + found->second + "'");
}

inline bool flag(const Attrs& attrs, const char* name) { return number(attrs, name, 0) != 0; }

inline Grid grid_of(const Attrs& attrs) {
  Grid grid = {static_cast<float>(number(attrs, "qmin", 0)), static_cast<float>(number(attrs, "qmax", 0)),
               static_cast<Rounding>(static_cast<int>(number(attrs, "rounding", 0)))};
  if (!(grid.qmin < grid.qmax) || grid.rounding < kHalfAway || grid.rounding > kMidRise)
    throw std::invalid_argument("qmin must be below qmax, and rounding 0, 1 or 2");
  return grid;
}

inline View view_of(const Attrs& attrs, const std::vector<int64_t>& shape) {
  return make_view(shape, static_cast<int>(number(attrs, "axis", -1)),
                   static_cast<int64_t>(number(attrs, "groups", 0)));
}

// Shape of the scale, as QuantSpec.scale_shape.
inline std::vector<unsigned int> scale_shape(const Attrs& attrs, const std::vector<unsigned int>& x) {
  const int axis = static_cast<int>(number(attrs, "axis", -1));
  if (axis < 0) return {1};
  if (axis >= static_cast<int>(x.size()))
    throw std::invalid_argument("axis " + std::to_string(axis) + " does not exist in a tensor of " +
                                std::to_string(x.size()) + " dimensions");
  std::vector<unsigned int> shape(x.size(), 1);
  const int groups = static_cast<int>(number(attrs, "groups", 0));
  shape[axis] = groups > 0 ? groups : x[axis];
  return shape;
}

inline std::string text(const std::vector<unsigned int>& shape) {
  std::ostringstream out;
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << ")";
  return out.str();
}

// Fills an input's shape (unknown lengths arrive as 0 or as -1), or checks the one it has.
inline void settle_shape(const char* what, std::vector<unsigned int>* given, const std::vector<unsigned int>& wanted) {
  bool known = !given->empty();
  for (unsigned int length : *given) known = known && length != 0 && length != std::numeric_limits<unsigned int>::max();
  if (!known) *given = wanted;
  if (*given != wanted)
    throw std::invalid_argument(std::string(what) + " must have the shape " + text(wanted) + ", got " + text(*given));
}

inline void require_elements(const std::vector<unsigned int>& x) {
  for (unsigned int length : x)
    if (length == 0) throw std::invalid_argument("the tensor has no elements: " + text(x));
  if (x.empty()) throw std::invalid_argument("the shape of the tensor is not known");
}

// Every operator works in float32.
inline void settle_types(std::vector<int>* in_types, std::vector<int>* out_types) {
  for (int& type : *in_types) {
    if (type == mxnet::ext::kUNSET || type == -1) type = mxnet::ext::kFloat32;
    if (type != mxnet::ext::kFloat32) throw std::invalid_argument("only float32 tensors are taken");
  }
  for (int& type : *out_types) type = mxnet::ext::kFloat32;
}

inline void require_positive(const char* what, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!(values[i] > 0.f) || !std::isfinite(values[i]))
      throw std::invalid_argument(std::string(what) + " must be positive and finite, got " + std::to_string(values[i]));
  }
}

inline void require_finite(float value) {
  if (!std::isfinite(value)) throw std::invalid_argument("NaN or infinity in the tensor");
}

inline float scale_from(float threshold, float level) {
  require_finite(threshold);
  return scale_of(threshold, level);
}

inline Part part_from(float low, float high, const Grid& grid) {
  require_finite(high - low);
  return part_of(low, high, grid);
}

// Parts whose grids just cover x.
inline std::vector<Part> find_parts(const Attrs& attrs, const float* x, const View& view, const Grid& grid) {
  std::vector<Part> parts(view.parts, Part{1.f, 0.f, 0.f});
  if (flag(attrs, "asymmetric")) {
    std::vector<float> low, high;
    minmax_tensor(x, view, &low, &high);
    for (int64_t p = 0; p < view.parts; ++p) parts[p] = part_from(low[p], high[p], grid);
  } else {
    const std::vector<float> peak = absmax_tensor(x, view, grid.qmin < 0);
    for (int64_t p = 0; p < view.parts; ++p) parts[p].scale = scale_from(peak[p], max_level(grid));
  }
  return parts;
}

// Statistics tensors are (2, parts): scales, then zero points.
inline void store_parts(const std::vector<Part>& parts, float* stats) {
  for (size_t p = 0; p < parts.size(); ++p) {
    stats[p] = parts[p].scale;
    stats[parts.size() + p] = parts[p].zero_point;
  }
}

inline std::vector<Part> load_parts(const float* stats, int64_t count) {
  std::vector<Part> parts(count, Part{1.f, 0.f, 0.f});
  for (int64_t p = 0; p < count; ++p) parts[p] = Part{stats[p], stats[count + p], 0.f};
  return parts;
}

}  // namespace fq

#endif  // QUANTIZE_OPS_OP_H_
