// SPDX-License-Identifier: MIT
// What an engine with integer layers computes around its sums, for simulations that equal it bit for bit. Inference on the
// CPU only: no gradients, no GPU kernels.
#include "op.h"

namespace fq {
namespace {

MXReturnValue types(const char* op, std::vector<int>* in_types, std::vector<int>* out_types) {
  return guarded(op, [&] { settle_types(in_types, out_types); });
}

// ---- fq_codes: x, multiplier (1) -> codes as float32; see simd_codes_loop. `run`: elements that the engine's loop goes
// over at a time; what is left of a run after its fours is rounded by C's round.

const int kVector = 4;

int64_t run_of(const Attrs& attrs, int64_t size) {
  const int64_t run = static_cast<int64_t>(number(attrs, "run", 0));
  if (run < 1 || size % run)
    throw std::invalid_argument("run must divide the " + std::to_string(size) + " elements, got " + std::to_string(run));
  return run;
}

MXReturnValue codes_attrs(const Attrs& attrs, int* inputs, int* outputs) {
  return guarded("fq_codes", [&] {
    *inputs = 2;
    *outputs = 1;
    if (!(number(attrs, "qmax", 0) >= 1)) throw std::invalid_argument("qmax must be at least 1");
  });
}

MXReturnValue codes_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return types("fq_codes", in_types, out_types);
}

MXReturnValue codes_shapes(const Attrs&, Shapes* in, Shapes* out) {
  return guarded("fq_codes", [&] {
    require_elements((*in)[0]);
    settle_shape("multiplier", &(*in)[1], {1});
    (*out)[0] = (*in)[0];
  });
}

MXReturnValue codes_forward(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_codes", [&] {
    const float* x = (*inputs)[0].data<float>();
    float* y = (*outputs)[0].data<float>();
    const float multiplier = (*inputs)[1].data<float>()[0];
    require_positive("multiplier", &multiplier, 1);
    const float qmax = static_cast<float>(number(attrs, "qmax", 0));
    const int64_t size = (*inputs)[0].size();
    const int64_t run = run_of(attrs, size);
    const int64_t rest = run % kVector;
    View view;
    view.inner = size;
    const Units units(view);
    for_units(units, [&](int64_t u) {
      simd_codes_loop(x + units.begin(u), y + units.begin(u), units.length(u), multiplier, qmax);
    });
    for (int64_t end = run; rest > 0 && end <= size; end += run) {
      for (int64_t i = end - rest; i < end; ++i) {
        const float steps = x[i] * multiplier;
        if (steps < 2147483648.f) y[i] = clip(round_steps<kHalfAway>(steps), -qmax, qmax);
      }
    }
  });
}

// ---- fq_multiply_add: x (n, channels, ...), factor (channels), term (channels) -> x * factor + term, rounded once

MXReturnValue multiply_add_attrs(const Attrs&, int* inputs, int* outputs) {
  *inputs = 3;
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue multiply_add_types(const Attrs&, std::vector<int>* in_types, std::vector<int>* out_types) {
  return types("fq_multiply_add", in_types, out_types);
}

MXReturnValue multiply_add_shapes(const Attrs&, Shapes* in, Shapes* out) {
  return guarded("fq_multiply_add", [&] {
    require_elements((*in)[0]);
    if ((*in)[0].size() < 2) throw std::invalid_argument("the tensor has no axis of channels: " + text((*in)[0]));
    settle_shape("factor", &(*in)[1], {(*in)[0][1]});
    settle_shape("term", &(*in)[2], {(*in)[0][1]});
    (*out)[0] = (*in)[0];
  });
}

MXReturnValue multiply_add_forward(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource&) {
  return guarded("fq_multiply_add", [&] {
    const Units units(make_view((*inputs)[0].shape, 1, 0));
    const float* x = (*inputs)[0].data<float>();
    const float* factor = (*inputs)[1].data<float>();
    const float* term = (*inputs)[2].data<float>();
    float* y = (*outputs)[0].data<float>();
    for_units(units, [&](int64_t u) {
      const int64_t at = units.begin(u), channel = units.part(u);
      multiply_add_loop(x + at, y + at, units.length(u), factor[channel], term[channel]);
    });
  });
}

}  // namespace

REGISTER_OP(fq_codes)
    .setParseAttrs(codes_attrs).setInferType(codes_types).setInferShape(codes_shapes)
    .setForward(codes_forward, "cpu");

REGISTER_OP(fq_multiply_add)
    .setParseAttrs(multiply_add_attrs).setInferType(multiply_add_types).setInferShape(multiply_add_shapes)
    .setForward(multiply_add_forward, "cpu");

}  // namespace fq
