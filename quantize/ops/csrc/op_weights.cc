// SPDX-License-Identifier: MIT
// Weight operators without a scale of their own: fq_dorefa (tanh, the whole tensor's maximum) and fq_sign.
#include <cmath>

#include "gpu_ops.h"
#include "op.h"

namespace fq {
namespace {

MXReturnValue same_shape(const char* op, Shapes* in, Shapes* out) {
  return guarded(op, [&] {
    require_elements((*in)[0]);
    (*out)[0] = (*in)[0];
  });
}

// ---- fq_dorefa: w -> clamped to [-1, 1] by tanh(w) / max|tanh(w)|, then on `levels` steps (0: clamp only)
// DoReFa, Zhou et al., arXiv:1606.06160, equation 9; SAT, Jin et al., arXiv:1912.10207, uses the clamp by itself too.

MXReturnValue dorefa_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_dorefa", [&] {
    *inputs = 1;
    *outputs = 1;
    if (number(attrs, "levels", 0) < 0) throw std::invalid_argument("levels must not be negative");
  });
}

MXReturnValue dorefa_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_dorefa", [&] { settle_types(in_types, out_types); });
}

MXReturnValue dorefa_shapes(const Attrs&, Shapes* in, Shapes* out) { return same_shape("fq_dorefa", in, out); }

// max|tanh| = tanh(max|w|); 1 for weights that are all zero.
double dorefa_divisor(const float* w, int64_t n) {
  View view;
  view.inner = n;
  const float peak = absmax_tensor(w, view, true)[0];
  if (!std::isfinite(peak)) throw std::invalid_argument("NaN or infinity in the tensor");
  return peak == 0.f ? 1.0 : std::tanh(static_cast<double>(peak));
}

MXReturnValue dorefa_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_dorefa", [&] {
    const float levels = static_cast<float>(number(attrs, "levels", 0));
    const int64_t n = (*inputs)[0].size();
    const float* w = (*inputs)[0].data<float>();
    float* y = (*outputs)[0].data<float>();
    const double divisor = dorefa_divisor(w, n);
#pragma omp parallel for schedule(static) if (n > Units::kUnit)
    for (int64_t i = 0; i < n; ++i) y[i] = dorefa(w[i], divisor, levels);
  });
}

// dy, w, y -> dw = dy * (1 - tanh(w)^2) / max|tanh(w)|
MXReturnValue dorefa_backward(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_dorefa", [&] {
    const int64_t n = (*inputs)[1].size();
    const float* dy = (*inputs)[0].data<float>();
    const float* w = (*inputs)[1].data<float>();
    float* dw = (*outputs)[0].data<float>();
    const double divisor = dorefa_divisor(w, n);
#pragma omp parallel for schedule(static) if (n > Units::kUnit)
    for (int64_t i = 0; i < n; ++i) dw[i] = dorefa_gradient(w[i], dy[i], divisor);
  });
}

// ---- fq_sign: x -> +1 or -1 (0 gives +1); dx = dy where |x| <= 1. BNN, Courbariaux et al., arXiv:1602.02830, eq. 4.

MXReturnValue sign_attrs(const Attrs&, int* inputs, int* outputs) {
  *inputs = 1;
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue sign_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_sign", [&] { settle_types(in_types, out_types); });
}

MXReturnValue sign_shapes(const Attrs&, Shapes* in, Shapes* out) { return same_shape("fq_sign", in, out); }

MXReturnValue sign_forward(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_sign", [&] {
    const Units units(make_view((*inputs)[0].shape, -1, 0));
    const float* x = (*inputs)[0].data<float>();
    float* y = (*outputs)[0].data<float>();
    for_units(units, [&](int64_t u) { sign_loop(x + units.begin(u), y + units.begin(u), units.length(u)); });
  });
}

// dy, x, y -> dx
MXReturnValue sign_backward(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_sign", [&] {
    const Units units(make_view((*inputs)[1].shape, -1, 0));
    const float* dy = (*inputs)[0].data<float>();
    const float* x = (*inputs)[1].data<float>();
    float* dx = (*outputs)[0].data<float>();
    for_units(units, [&](int64_t u) {
      const int64_t at = units.begin(u);
      sign_back_loop(x + at, dy + at, dx + at, units.length(u));
    });
  });
}

}  // namespace

REGISTER_OP(fq_dorefa)
    .setParseAttrs(dorefa_attrs).setInferType(dorefa_types).setInferShape(dorefa_shapes)
    .setForward(dorefa_forward, "cpu").setBackward(dorefa_backward, "cpu") FQ_GPU(dorefa);

REGISTER_OP(fq_sign)
    .setParseAttrs(sign_attrs).setInferType(sign_types).setInferShape(sign_shapes)
    .setForward(sign_forward, "cpu").setBackward(sign_backward, "cpu") FQ_GPU(sign);

}  // namespace fq
