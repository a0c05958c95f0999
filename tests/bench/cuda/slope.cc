// SPDX-License-Identifier: MIT
// PACT's gradients by the CUDA code, one line for each: dalpha, then dx. Arguments: alpha, levels, calibrated; x and dy
// come from standard input, pair by pair.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels.h"
#include "view.h"

int main(int, char** arguments) {
  std::vector<float> x, dy;
  float value, gradient;
  while (std::scanf("%f %f", &value, &gradient) == 2) {
    x.push_back(value);
    dy.push_back(gradient);
  }
  const float alpha = std::strtof(arguments[1], nullptr);
  std::vector<float> dx(x.size());
  std::vector<char> scratch(1 << 20);
  float dalpha = 0.f;
  fq::Workspace work = {};
  work.scratch = scratch.data();
  fq::pact_backward_gpu(x.data(), dy.data(), dx.data(), static_cast<int64_t>(x.size()), &alpha, &dalpha,
                        std::strtof(arguments[2], nullptr), std::atoi(arguments[3]) != 0, work);
  std::printf("%.9g\n", static_cast<double>(dalpha));
  for (float each : dx) std::printf("%.9g\n", static_cast<double>(each));
}
