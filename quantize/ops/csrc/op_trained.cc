// SPDX-License-Identifier: MIT
// Operators with a trained number: fq_lsq (the step) and fq_pact (the upper clip).
#include "gpu_ops.h"
#include "op.h"

namespace fq {
namespace {

// ---- fq_lsq: x, step -> y; the step's gradient is scaled by `grad_scale`, or by 1 / sqrt(elements * qmax) where it is 0

MXReturnValue lsq_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_lsq", [&] {
    *inputs = 2;
    *outputs = 1;
    if (grid_of(attrs).rounding == kMidRise) throw std::invalid_argument("a mid-rise grid has no LSQ gradient");
  });
}

MXReturnValue lsq_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_lsq", [&] { settle_types(in_types, out_types); });
}

MXReturnValue lsq_shapes(const Attrs& attrs, Shapes* in, Shapes* out) {
  return guarded("fq_lsq", [&] {
    require_elements((*in)[0]);
    settle_shape("step", &(*in)[1], scale_shape(attrs, (*in)[0]));
    (*out)[0] = (*in)[0];
  });
}

std::vector<Part> step_parts(const float* steps, int64_t count) {
  require_positive("step", steps, count);
  std::vector<Part> parts(count, Part{1.f, 0.f, 0.f});
  for (int64_t p = 0; p < count; ++p) parts[p].scale = steps[p];
  return parts;
}

MXReturnValue lsq_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_lsq", [&] {
    const View view = view_of(attrs, (*inputs)[0].shape);
    fake_tensor((*inputs)[0].data<float>(), (*outputs)[0].data<float>(), view,
                step_parts((*inputs)[1].data<float>(), view.parts), grid_of(attrs));
  });
}

// dy, x, step, y -> dx, dstep
MXReturnValue lsq_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_lsq", [&] {
    const View view = view_of(attrs, (*inputs)[1].shape);
    const Grid grid = grid_of(attrs);
    const float* dy = (*inputs)[0].data<float>();
    const float* x = (*inputs)[1].data<float>();
    const float* steps = (*inputs)[2].data<float>();
    float* dx = (*outputs)[0].data<float>();
    require_positive("step", steps, view.parts);
    const Units units(view);
    std::vector<double> sums(units.count());
    for_units(units, [&](int64_t u) {
      const int64_t at = units.begin(u);
      sums[u] = lsq_loop(x + at, dy + at, dx + at, units.length(u), steps[units.part(u)], grid, past_caches(view));
    });
    double factor = number(attrs, "grad_scale", 0);
    if (factor == 0) factor = 1 / std::sqrt(static_cast<double>(view.per_part()) * grid.qmax);
    const std::vector<double> totals = sum_by_part(units, sums, view.parts);
    for (int64_t p = 0; p < view.parts; ++p) (*outputs)[1].data<float>()[p] = static_cast<float>(totals[p] * factor);
  });
}

// ---- fq_pact: x, alpha (1,) -> y on [0, alpha] in `levels` steps; `calibrated` chooses CG-PACT's gradient

MXReturnValue pact_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_pact", [&] {
    *inputs = 2;
    *outputs = 1;
    if (number(attrs, "levels", 0) < 1) throw std::invalid_argument("levels must be at least 1");
  });
}

MXReturnValue pact_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_pact", [&] { settle_types(in_types, out_types); });
}

MXReturnValue pact_shapes(const Attrs&, Shapes* in, Shapes* out) {
  return guarded("fq_pact", [&] {
    require_elements((*in)[0]);
    settle_shape("alpha", &(*in)[1], {1});
    (*out)[0] = (*in)[0];
  });
}

MXReturnValue pact_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_pact", [&] {
    const float levels = static_cast<float>(number(attrs, "levels", 0));
    const float* x = (*inputs)[0].data<float>();
    const float* alpha = (*inputs)[1].data<float>();
    float* y = (*outputs)[0].data<float>();
    require_positive("alpha", alpha, 1);
    const View view = make_view((*inputs)[0].shape, -1, 0);
    const Units units(view);
    for_units(units, [&](int64_t u) {
      pact_loop(x + units.begin(u), y + units.begin(u), units.length(u), *alpha, levels, past_caches(view));
    });
  });
}

// dy, x, alpha, y -> dx, dalpha
MXReturnValue pact_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_pact", [&] {
    const float levels = static_cast<float>(number(attrs, "levels", 0));
    const bool calibrated = flag(attrs, "calibrated");
    const float* dy = (*inputs)[0].data<float>();
    const float* x = (*inputs)[1].data<float>();
    const float* alpha = (*inputs)[2].data<float>();
    float* dx = (*outputs)[0].data<float>();
    require_positive("alpha", alpha, 1);
    const Units units(make_view((*inputs)[1].shape, -1, 0));
    std::vector<double> sums(units.count());
    for_units(units, [&](int64_t u) {
      const int64_t at = units.begin(u);
      sums[u] = pact_back_loop(x + at, dy + at, dx + at, units.length(u), *alpha, levels, calibrated);
    });
    (*outputs)[1].data<float>()[0] = static_cast<float>(sum_by_part(units, sums, 1)[0]);
  });
}

}  // namespace

REGISTER_OP(fq_lsq)
    .setParseAttrs(lsq_attrs).setInferType(lsq_types).setInferShape(lsq_shapes)
    .setForward(lsq_forward, "cpu").setBackward(lsq_backward, "cpu") FQ_GPU(lsq);

REGISTER_OP(fq_pact)
    .setParseAttrs(pact_attrs).setInferType(pact_types).setInferShape(pact_shapes)
    .setForward(pact_forward, "cpu").setBackward(pact_backward, "cpu") FQ_GPU(pact);

}  // namespace fq
