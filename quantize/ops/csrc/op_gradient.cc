// SPDX-License-Identifier: MIT
// fq_gradient: x passes, its gradient is rounded to `levels` steps for each image (DoReFa). CPU only.
#include <cmath>

#include "op.h"

namespace fq {
namespace {

// ---- fq_gradient: x, noise -> y = x; dx = 2m (round((dy / 2m + 1/2) levels + noise) / levels - 1/2), m = max|dy| of the
// image. Zhou et al., arXiv:1606.06160, equation 12.

MXReturnValue gradient_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_gradient", [&] {
    *inputs = 2;
    *outputs = 1;
    if (number(attrs, "levels", 0) < 1) throw std::invalid_argument("levels must be at least 1");
  });
}

MXReturnValue gradient_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded("fq_gradient", [&] { settle_types(in_types, out_types); });
}

MXReturnValue gradient_shapes(const Attrs&, Shapes* in, Shapes* out) {
  return guarded("fq_gradient", [&] {
    require_elements((*in)[0]);
    settle_shape("noise", &(*in)[1], (*in)[0]);
    (*out)[0] = (*in)[0];
  });
}

MXReturnValue gradient_forward(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_gradient", [&] {
    std::copy_n((*inputs)[0].data<float>(), (*inputs)[0].size(), (*outputs)[0].data<float>());
  });
}

// dy, x, noise, y -> dx, dnoise
MXReturnValue gradient_backward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_gradient", [&] {
    const float levels = static_cast<float>(number(attrs, "levels", 0));
    const float* dy = (*inputs)[0].data<float>();
    const float* noise = (*inputs)[2].data<float>();
    float* dx = (*outputs)[0].data<float>();
    const int64_t images = (*inputs)[0].shape[0], length = (*inputs)[0].size() / images;
#pragma omp parallel for schedule(static)
    for (int64_t image = 0; image < images; ++image) {
      const int64_t begin = image * length;
      float peak = 0.f;
      for (int64_t i = begin; i < begin + length; ++i) peak = std::max(peak, std::fabs(dy[i]));
      const float span = peak == 0.f ? 1.f : 2.f * peak;
      for (int64_t i = begin; i < begin + length; ++i) {
        const float code = round_steps<kHalfAway>((dy[i] / span + 0.5f) * levels + noise[i]);
        dx[i] = (std::min(std::max(code, 0.f), levels) / levels - 0.5f) * span;
      }
    }
    std::fill_n((*outputs)[1].data<float>(), (*outputs)[1].size(), 0.f);
  });
}

}  // namespace

REGISTER_OP(fq_gradient)
    .setParseAttrs(gradient_attrs).setInferType(gradient_types).setInferShape(gradient_shapes)
    .setForward(gradient_forward, "cpu").setBackward(gradient_backward, "cpu");

}  // namespace fq
