// SPDX-License-Identifier: MIT
// The operators on the GPU, without MXNet: raw device pointers and a stream. Plain C++, so that the compiler that builds
// the MXNet side needs no CUDA header; kernels.cu and reductions.cu hold the code, grid.h the arithmetic.
//
// Nothing here waits for the device, so what the CPU refuses after a look at the values is not refused here: scales,
// steps, multipliers and alpha are taken as they are, and NaN or infinity in a tensor whose range is taken makes the
// whole part NaN. Launch errors are thrown.
#ifndef QUANTIZE_OPS_KERNELS_H_
#define QUANTIZE_OPS_KERNELS_H_

#include <cstdint>

#include "grid.h"
#include "view.h"

typedef struct CUstream_st* cudaStream_t;  // as in CUDA's headers

namespace fq {

// Device pointers to one number for each part; null: no zero point, divide by the scale.
struct Scales {
  const float* scale;
  const float* zero_point;
  const float* multiplier;
};

// What a kernel that reduces needs: `scratch` has scratch_bytes(view) bytes, aligned to 8.
struct Workspace {
  void* scratch;
  cudaStream_t stream;
};

int64_t scratch_bytes(const View& view);

void fake_gpu(const float* x, float* y, const View& view, const Scales& scales, const Grid& grid, cudaStream_t stream);
void mask_gpu(const float* x, const float* dy, float* dx, const View& view, const Scales& scales, const Grid& grid,
              cudaStream_t stream);

// stats: (2, parts), scales and zero points of grids that just cover x.
void find_stats_gpu(const float* x, float* stats, const View& view, const Grid& grid, bool asymmetric,
                    const Workspace& work);
// Scales that read such statistics.
Scales stats_scales(const float* stats, const View& view, bool asymmetric);

// Moves state (low, high, weight) towards the mean over images (the parts of the view) of each image's extremes, and
// writes stats (2, 1). A tensor that holds NaN or infinity leaves the state alone and gives NaN statistics.
void observe_gpu(const float* x, float* state, float* stats, const View& images, const Grid& grid, bool asymmetric,
                 double momentum, const Workspace& work);

// dstep = factor * sum of dy * dy/dstep of each part.
void lsq_backward_gpu(const float* x, const float* dy, float* dx, const float* step, float* dstep, const View& view,
                      const Grid& grid, double factor, const Workspace& work);

void pact_gpu(const float* x, float* y, int64_t n, const float* alpha, float levels, cudaStream_t stream);
void pact_backward_gpu(const float* x, const float* dy, float* dx, int64_t n, const float* alpha, float* dalpha,
                       float levels, bool calibrated, const Workspace& work);

// levels 0: clamp only. The scratch is that of the view whose inner length is n.
void dorefa_gpu(const float* w, float* y, int64_t n, float levels, const Workspace& work);
void dorefa_backward_gpu(const float* w, const float* dy, float* dw, int64_t n, const Workspace& work);

void sign_gpu(const float* x, float* y, int64_t n, cudaStream_t stream);
void sign_backward_gpu(const float* x, const float* dy, float* dx, int64_t n, cudaStream_t stream);

void zero_gpu(float* y, int64_t n, cudaStream_t stream);

}  // namespace fq

#endif  // QUANTIZE_OPS_KERNELS_H_
