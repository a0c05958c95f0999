// SPDX-License-Identifier: MIT
// The operators' forward and backward functions for the GPU context. Plain C++ on purpose: nvcc would make lib_api.h ask
// for cuRAND's headers. Attributes, shapes and types were checked by the functions registered for both contexts; values
// are not looked at, since that would wait for the device (see kernels.h).
#include "gpu_ops.h"

#ifdef FQ_CUDA

#include "kernels.h"

namespace fq {
namespace {

float* at(Tensors* tensors, size_t i) { return (*tensors)[i].data<float>(); }

cudaStream_t stream_of(const OpResource& resource) { return static_cast<cudaStream_t>(resource.get_cuda_stream()); }

// MXNet hands out one temporary space per call of an operator: to be called once.
Workspace workspace(const OpResource& resource, const View& view) {
  const int64_t bytes = scratch_bytes(view);
  if (bytes > std::numeric_limits<int>::max()) throw std::invalid_argument("the tensor is too large");
  return {resource.alloc_gpu(static_cast<int>(bytes)), stream_of(resource)};
}

View whole(const MXTensor& tensor) { return make_view(tensor.shape, -1, 0); }

View images_of(const MXTensor& tensor) {
  View images;
  images.parts = tensor.shape[0];
  images.inner = tensor.size() / images.parts;
  return images;
}

Scales given_scales(const Attrs& attrs, Tensors* inputs, size_t first) {
  size_t next = first + 1;
  const float* zero_point = flag(attrs, "has_zero_point") ? at(inputs, next++) : nullptr;
  const float* multiplier = flag(attrs, "has_multiplier") ? at(inputs, next) : nullptr;
  return {at(inputs, first), zero_point, multiplier};
}

void mask_by_stats(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const float* stats, const OpResource& resource) {
  const View view = view_of(attrs, (*inputs)[2].shape);
  mask_gpu(at(inputs, 2), at(inputs, 0), at(outputs, 0), view, stats_scales(stats, view, flag(attrs, "asymmetric")),
           grid_of(attrs), stream_of(resource));
}

void zero_from(Tensors* outputs, size_t first, const OpResource& resource) {
  for (size_t i = first; i < outputs->size(); ++i) zero_gpu(at(outputs, i), (*outputs)[i].size(), stream_of(resource));
}

}  // namespace

// ---- x, scale[, zero_point][, multiplier] -> y

MXReturnValue fixed_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_fixed", [&] {
    fake_gpu(at(inputs, 0), at(outputs, 0), view_of(attrs, (*inputs)[0].shape), given_scales(attrs, inputs, 1),
             grid_of(attrs), stream_of(resource));
  });
}

// dy, x, scale, ..., y -> dx, and zeros for the others
MXReturnValue fixed_backward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_fixed", [&] {
    mask_gpu(at(inputs, 1), at(inputs, 0), at(outputs, 0), view_of(attrs, (*inputs)[1].shape),
             given_scales(attrs, inputs, 2), grid_of(attrs), stream_of(resource));
    zero_from(outputs, 1, resource);
  });
}

// ---- x -> y, stats (2, parts)

MXReturnValue online_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_online", [&] {
    const View view = view_of(attrs, (*inputs)[0].shape);
    const Grid grid = grid_of(attrs);
    const bool asymmetric = flag(attrs, "asymmetric");
    float* stats = at(outputs, 1);
    find_stats_gpu(at(inputs, 0), stats, view, grid, asymmetric, workspace(resource, view));
    fake_gpu(at(inputs, 0), at(outputs, 0), view, stats_scales(stats, view, asymmetric), grid, stream_of(resource));
  });
}

// dy, dstats, x, y, stats -> dx
MXReturnValue online_backward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_online", [&] { mask_by_stats(attrs, inputs, outputs, at(inputs, 4), resource); });
}

// ---- x, state -> y, stats (2, 1)

MXReturnValue observed_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_observed", [&] {
    const View view = view_of(attrs, (*inputs)[0].shape), images = images_of((*inputs)[0]);
    const Grid grid = grid_of(attrs);
    const bool asymmetric = flag(attrs, "asymmetric");
    float* stats = at(outputs, 1);
    observe_gpu(at(inputs, 0), at(inputs, 1), stats, images, grid, asymmetric, number(attrs, "momentum", 0.9),
                workspace(resource, images));
    fake_gpu(at(inputs, 0), at(outputs, 0), view, stats_scales(stats, view, asymmetric), grid, stream_of(resource));
  });
}

// dy, dstats, x, state, y, stats -> dx, dstate
MXReturnValue observed_backward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_observed", [&] {
    mask_by_stats(attrs, inputs, outputs, at(inputs, 5), resource);
    zero_from(outputs, 1, resource);
  });
}

// ---- x, step -> y

MXReturnValue lsq_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_lsq", [&] {
    fake_gpu(at(inputs, 0), at(outputs, 0), view_of(attrs, (*inputs)[0].shape), Scales{at(inputs, 1), nullptr, nullptr},
             grid_of(attrs), stream_of(resource));
  });
}

// dy, x, step, y -> dx, dstep
MXReturnValue lsq_backward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_lsq", [&] {
    const View view = view_of(attrs, (*inputs)[1].shape);
    const Grid grid = grid_of(attrs);
    double factor = number(attrs, "grad_scale", 0);
    if (factor == 0) factor = 1 / std::sqrt(static_cast<double>(view.per_part()) * grid.qmax);
    lsq_backward_gpu(at(inputs, 1), at(inputs, 0), at(outputs, 0), at(inputs, 2), at(outputs, 1), view, grid, factor,
                     workspace(resource, view));
  });
}

// ---- x, alpha -> y

MXReturnValue pact_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_pact", [&] {
    pact_gpu(at(inputs, 0), at(outputs, 0), (*inputs)[0].size(), at(inputs, 1),
             static_cast<float>(number(attrs, "levels", 0)), stream_of(resource));
  });
}

// dy, x, alpha, y -> dx, dalpha
MXReturnValue pact_backward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_pact", [&] {
    pact_backward_gpu(at(inputs, 1), at(inputs, 0), at(outputs, 0), (*inputs)[1].size(), at(inputs, 2), at(outputs, 1),
                      static_cast<float>(number(attrs, "levels", 0)), flag(attrs, "calibrated"),
                      workspace(resource, whole((*inputs)[1])));
  });
}

// ---- w -> y

MXReturnValue dorefa_forward_gpu(const Attrs& attrs, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_dorefa", [&] {
    dorefa_gpu(at(inputs, 0), at(outputs, 0), (*inputs)[0].size(), static_cast<float>(number(attrs, "levels", 0)),
               workspace(resource, whole((*inputs)[0])));
  });
}

// dy, w, y -> dw
MXReturnValue dorefa_backward_gpu(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_dorefa", [&] {
    dorefa_backward_gpu(at(inputs, 1), at(inputs, 0), at(outputs, 0), (*inputs)[1].size(),
                        workspace(resource, whole((*inputs)[1])));
  });
}

// ---- x -> y

MXReturnValue sign_forward_gpu(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_sign", [&] {
    sign_gpu(at(inputs, 0), at(outputs, 0), (*inputs)[0].size(), stream_of(resource));
  });
}

// dy, x, y -> dx
MXReturnValue sign_backward_gpu(const Attrs&, Tensors* inputs, Tensors* outputs, const OpResource& resource) {
  return guarded("fq_sign", [&] {
    sign_backward_gpu(at(inputs, 1), at(inputs, 0), at(outputs, 0), (*inputs)[1].size(), stream_of(resource));
  });
}

}  // namespace fq

#endif  // FQ_CUDA
