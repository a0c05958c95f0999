// SPDX-License-Identifier: MIT
// The GPU side of the operators, for libraries built with -DFQ_CUDA; kernels.h is what they call.
#ifndef QUANTIZE_OPS_GPU_OPS_H_
#define QUANTIZE_OPS_GPU_OPS_H_

#include "op.h"

#ifdef FQ_CUDA

// Added to a registration: the same operator in the GPU context.
#define FQ_GPU(NAME) .setForward(NAME##_forward_gpu, "gpu").setBackward(NAME##_backward_gpu, "gpu")

#define FQ_DECLARE_GPU(NAME)                                                                                      \
  MXReturnValue NAME##_forward_gpu(const Attrs& attrs, Tensors* in, Tensors* out, const OpResource& resource);    \
  MXReturnValue NAME##_backward_gpu(const Attrs& attrs, Tensors* in, Tensors* out, const OpResource& resource);

namespace fq {

FQ_DECLARE_GPU(fixed)
FQ_DECLARE_GPU(online)
FQ_DECLARE_GPU(observed)
FQ_DECLARE_GPU(lsq)
FQ_DECLARE_GPU(pact)
FQ_DECLARE_GPU(dorefa)
FQ_DECLARE_GPU(sign)

}  // namespace fq

#undef FQ_DECLARE_GPU

#else
#define FQ_GPU(NAME)
#endif

#endif  // QUANTIZE_OPS_GPU_OPS_H_
