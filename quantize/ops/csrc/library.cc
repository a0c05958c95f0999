// SPDX-License-Identifier: MIT
#include "mxnet/lib_api.h"

// MXNet calls this when the library is loaded; 0 refuses it.
mxnet::ext::MXReturnValue initialize(int version) {
  if (version >= 10900) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "quantize's operators need MXNet 1.9, this is version " << version;
  return mxnet::ext::MX_FAIL;
}

// What the loader checks before it hands the library to MXNet.
extern "C" const char* quantize_ops_build() { return FQ_BUILD; }

#ifdef FQ_CUDA
extern "C" const char* quantize_ops_cuda() { return "quantize-ops-with-cuda"; }
#endif
