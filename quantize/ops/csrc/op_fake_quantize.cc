// SPDX-License-Identifier: MIT
// fq_fixed: given scale. fq_online: the range of this tensor. fq_observed: a moving average of ranges, kept as state.
#include "gpu_ops.h"
#include "op.h"

namespace fq {
namespace {

// ---- fq_fixed: x, scale[, zero_point][, multiplier] -> y

int fixed_inputs(const Attrs& attrs) { return 2 + flag(attrs, "has_zero_point") + flag(attrs, "has_multiplier"); }

std::vector<Part> given_parts(const Attrs& attrs, Tensors* inputs, size_t first, int64_t count) {
  require_positive("scale", (*inputs)[first].data<float>(), count);
  std::vector<Part> parts(count, Part{1.f, 0.f, 0.f});
  size_t next = first + 1;
  for (int64_t p = 0; p < count; ++p) parts[p].scale = (*inputs)[first].data<float>()[p];
  if (flag(attrs, "has_zero_point")) {
    for (int64_t p = 0; p < count; ++p) parts[p].zero_point = (*inputs)[next].data<float>()[p];
    ++next;
  }
  if (flag(attrs, "has_multiplier")) {
    require_positive("multiplier", (*inputs)[next].data<float>(), count);
    for (int64_t p = 0; p < count; ++p) parts[p].multiplier = (*inputs)[next].data<float>()[p];
  }
  return parts;
}

MXReturnValue fixed_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_fixed", [&] {
    *inputs = fixed_inputs(attrs);
    *outputs = 1;
    grid_of(attrs);
  });
}

MXReturnValue fixed_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_fixed", [&] { settle_types(in_types, out_types); });
}

MXReturnValue fixed_shapes(const Attrs& attrs, Shapes* in, Shapes* out) {
  return guarded("fq_fixed", [&] {
    require_elements((*in)[0]);
    const char* names[] = {"x", "scale", "zero_point", "multiplier"};
    for (size_t i = 1; i < in->size(); ++i)
      settle_shape(names[i == 2 && !flag(attrs, "has_zero_point") ? 3 : i], &(*in)[i], scale_shape(attrs, (*in)[0]));
    (*out)[0] = (*in)[0];
  });
}

MXReturnValue fixed_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_fixed", [&] {
    const View view = view_of(attrs, (*inputs)[0].shape);
    fake_tensor((*inputs)[0].data<float>(), (*outputs)[0].data<float>(), view,
                given_parts(attrs, inputs, 1, view.parts), grid_of(attrs));
  });
}

// dy, x, scale, ..., y -> dx, and zeros for the others
MXReturnValue fixed_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_fixed", [&] {
    const View view = view_of(attrs, (*inputs)[1].shape);
    mask_tensor((*inputs)[1].data<float>(), (*inputs)[0].data<float>(), (*outputs)[0].data<float>(), view,
                given_parts(attrs, inputs, 2, view.parts), grid_of(attrs));
    for (size_t i = 1; i < outputs->size(); ++i)
      std::fill_n((*outputs)[i].data<float>(), (*outputs)[i].size(), 0.f);
  });
}

// ---- fq_online: x -> y, stats (2, parts)

MXReturnValue online_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_online", [&] {
    *inputs = 1;
    *outputs = 2;
    grid_of(attrs);
  });
}

MXReturnValue online_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_online", [&] { settle_types(in_types, out_types); });
}

std::vector<unsigned int> stats_shape(const Attrs& attrs, const std::vector<unsigned int>& x) {
  unsigned int parts = 1;
  for (unsigned int length : scale_shape(attrs, x)) parts *= length;
  return {2, parts};
}

MXReturnValue online_shapes(const Attrs& attrs, Shapes* in, Shapes* out) {
  return guarded("fq_online", [&] {
    require_elements((*in)[0]);
    (*out)[0] = (*in)[0];
    (*out)[1] = stats_shape(attrs, (*in)[0]);
  });
}

MXReturnValue online_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_online", [&] {
    const float* x = (*inputs)[0].data<float>();
    const View view = view_of(attrs, (*inputs)[0].shape);
    const Grid grid = grid_of(attrs);
    const std::vector<Part> parts = find_parts(attrs, x, view, grid);
    store_parts(parts, (*outputs)[1].data<float>());
    fake_tensor(x, (*outputs)[0].data<float>(), view, parts, grid);
  });
}

// dy, dstats, x, y, stats -> dx
MXReturnValue online_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_online", [&] {
    const View view = view_of(attrs, (*inputs)[2].shape);
    mask_tensor((*inputs)[2].data<float>(), (*inputs)[0].data<float>(), (*outputs)[0].data<float>(), view,
                load_parts((*inputs)[4].data<float>(), view.parts), grid_of(attrs));
  });
}

// ---- fq_observed: x, state (low, high, weight) -> y, stats (2, 1); one scale for the tensor

MXReturnValue observed_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_observed", [&] {
    *inputs = 2;
    *outputs = 2;
    grid_of(attrs);
    const double momentum = number(attrs, "momentum", 0.9);
    if (!(momentum >= 0 && momentum < 1)) throw std::invalid_argument("momentum must be at least 0 and below 1");
  });
}

MXReturnValue observed_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_observed", [&] { settle_types(in_types, out_types); });
}

MXReturnValue observed_shapes(const Attrs&, Shapes* in, Shapes* out) {
  return guarded("fq_observed", [&] {
    require_elements((*in)[0]);
    settle_shape("state", &(*in)[1], {3});
    (*out)[0] = (*in)[0];
    (*out)[1] = {2, 1};
  });
}

MXReturnValue observed_mutates(const Attrs&, std::vector<int>* indices) {
  indices->push_back(1);
  return MX_SUCCESS;
}

// Mean over images of each image's minimum and maximum, as calib.observers.EMAObserver.
void observe(const MXTensor& tensor, const float* x, double* low, double* high) {
  View images;
  images.parts = tensor.shape[0];
  images.inner = tensor.size() / images.parts;
  std::vector<float> lows, highs;
  minmax_tensor(x, images, &lows, &highs);
  *low = *high = 0;
  for (int64_t i = 0; i < images.parts; ++i) {
    if (!std::isfinite(lows[i]) || !std::isfinite(highs[i])) throw std::invalid_argument("NaN or infinity in the tensor");
    *low += lows[i] / static_cast<double>(images.parts);
    *high += highs[i] / static_cast<double>(images.parts);
  }
}

MXReturnValue observed_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_observed", [&] {
    const float* x = (*inputs)[0].data<float>();
    float* state = (*inputs)[1].data<float>();
    const Grid grid = grid_of(attrs);
    const double keep = number(attrs, "momentum", 0.9);
    double low, high;
    observe((*inputs)[0], x, &low, &high);
    state[0] = static_cast<float>(keep * state[0] + (1 - keep) * low);
    state[1] = static_cast<float>(keep * state[1] + (1 - keep) * high);
    state[2] = static_cast<float>(keep * state[2] + (1 - keep));
    const float least = state[0] / state[2], most = state[1] / state[2];
    std::vector<Part> parts(1);
    if (flag(attrs, "asymmetric")) {
      parts[0] = part_from(least, most, grid);
    } else {
      parts[0] = Part{scale_from(grid.qmin < 0 ? std::max(-least, most) : most, max_level(grid)), 0.f, 0.f};
    }
    store_parts(parts, (*outputs)[1].data<float>());
    fake_tensor(x, (*outputs)[0].data<float>(), view_of(attrs, (*inputs)[0].shape), parts, grid);
  });
}

// dy, dstats, x, state, y, stats -> dx, dstate
MXReturnValue observed_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_observed", [&] {
    const View view = view_of(attrs, (*inputs)[2].shape);
    mask_tensor((*inputs)[2].data<float>(), (*inputs)[0].data<float>(), (*outputs)[0].data<float>(), view,
                load_parts((*inputs)[5].data<float>(), 1), grid_of(attrs));
    if (outputs->size() > 1) std::fill_n((*outputs)[1].data<float>(), (*outputs)[1].size(), 0.f);
  });
}

}  // namespace

REGISTER_OP(fq_fixed)
    .setParseAttrs(fixed_attrs).setInferType(fixed_types).setInferShape(fixed_shapes)
    .setForward(fixed_forward, "cpu").setBackward(fixed_backward, "cpu") FQ_GPU(fixed);

REGISTER_OP(fq_online)
    .setParseAttrs(online_attrs).setInferType(online_types).setInferShape(online_shapes)
    .setForward(online_forward, "cpu").setBackward(online_backward, "cpu") FQ_GPU(online);

REGISTER_OP(fq_observed)
    .setParseAttrs(observed_attrs).setInferType(observed_types).setInferShape(observed_shapes)
    .setMutateInputs(observed_mutates)
    .setForward(observed_forward, "cpu").setBackward(observed_backward, "cpu") FQ_GPU(observed);

}  // namespace fq
