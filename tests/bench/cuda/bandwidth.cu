// SPDX-License-Identifier: MIT
// Time of each kernel against a device-to-device copy of the same tensor, in the same run.
#include "bandwidth.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <vector>

#include "buffer.h"
#include "kernels.h"

namespace {

// Random values of about a normal distribution: never zeros, which hide work and can run faster than data.
__global__ void fill_kernel(float* x, int64_t n, unsigned seed, float scale) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t h = (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull;
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
    h ^= h >> 31;
    float sum = 0;
    for (int k = 0; k < 4; ++k) sum += static_cast<float>((h >> (16 * k)) & 0xffff) / 65536.f - 0.5f;
    x[i] = sum * 1.7f * scale;
  }
}

void fill(float* x, int64_t n, unsigned seed, float scale) {
  void* args[] = {&x, &n, &seed, &scale};
  CUDA_OK(cudaLaunchKernel(fill_kernel, dim3(1024), dim3(256), args, 0, nullptr));
}

// Several sets of tensors are gone through in turn, so that a small tensor is not read from the cache.
struct Sets {
  std::vector<float*> x, dy, y;

  Sets(int64_t n, size_t count) {
    for (size_t s = 0; s < count; ++s) {
      for (auto* list : {&x, &dy, &y}) {
        float* p;
        CUDA_OK(cudaMalloc(&p, n * sizeof(float)));
        fill(p, n, static_cast<unsigned>(3 * s + list->size()), 1.f);
        list->push_back(p);
      }
    }
  }
  ~Sets() {
    for (auto* list : {&x, &dy, &y})
      for (float* p : *list) cudaFree(p);
  }
};

typedef std::function<void(const float*, const float*, float*)> Body;

// Median in milliseconds.
double median_ms(const Sets& sets, int repeats, const Body& body) {
  cudaEvent_t begin, end;
  CUDA_OK(cudaEventCreate(&begin));
  CUDA_OK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = -3; i < repeats; ++i) {
    const size_t s = (i + 3) % sets.x.size();
    CUDA_OK(cudaEventRecord(begin, nullptr));
    body(sets.x[s], sets.dy[s], sets.y[s]);
    CUDA_OK(cudaEventRecord(end, nullptr));
    CUDA_OK(cudaEventSynchronize(end));
    float ms = 0;
    CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 0) times.push_back(ms);  // the first three warm up
  }
  CUDA_OK(cudaEventDestroy(begin));
  CUDA_OK(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

struct Row {
  const char* name;
  int reads, writes;  // of the whole tensor
  Body body;
};

// Numbers on the device that the kernels use: `scale` for up to `parts` parts, and room for results. Plain pointers, for
// the rows keep copies.
struct Numbers {
  float *scale, *zero_point, *multiplier, *alpha, *stats, *state, *result;
  void* scratch;

  void make(int64_t parts, int64_t bytes) {
    for (float** p : {&scale, &zero_point, &multiplier, &alpha, &stats, &state, &result})
      CUDA_OK(cudaMalloc(p, (2 * parts + 3) * sizeof(float)));
    CUDA_OK(cudaMalloc(&scratch, bytes));
    const std::vector<float> scales(parts, 0.011f), zeros(parts, 3.f), inverse(parts, 1 / 0.011f);
    CUDA_OK(cudaMemcpy(scale, scales.data(), parts * sizeof(float), cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy(zero_point, zeros.data(), parts * sizeof(float), cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy(multiplier, inverse.data(), parts * sizeof(float), cudaMemcpyHostToDevice));
    const float one_alpha = 1.2f, start[3] = {-1.f, 1.f, 1.f};
    CUDA_OK(cudaMemcpy(alpha, &one_alpha, sizeof(float), cudaMemcpyHostToDevice));
    CUDA_OK(cudaMemcpy(state, start, sizeof(start), cudaMemcpyHostToDevice));
  }
  void free() const {
    for (void* p : std::vector<void*>{scale, zero_point, multiplier, alpha, stats, state, result, scratch}) cudaFree(p);
  }
};

void grid_rows(std::vector<Row>* rows, const fq::View& tensor, const fq::View& channels, const Numbers& d) {
  const fq::Grid grid = {-127, 127, fq::kHalfAway};
  const fq::Scales plain = {d.scale, nullptr, nullptr}, times = {d.scale, nullptr, d.multiplier};
  const fq::Scales zero = {d.scale, d.zero_point, nullptr};
  const fq::Workspace work = {d.scratch, nullptr};
  const auto fake = [=](const fq::View& view, const fq::Scales& scales) {
    return [=](const float* x, const float*, float* y) { fq::fake_gpu(x, y, view, scales, grid, nullptr); };
  };
  const auto mask = [=](const fq::View& view) {
    return [=](const float* x, const float* dy, float* y) { fq::mask_gpu(x, dy, y, view, plain, grid, nullptr); };
  };
  const auto online = [=](const fq::View& view) {
    return [=](const float* x, const float*, float* y) {
      fq::find_stats_gpu(x, d.stats, view, grid, false, work);
      fq::fake_gpu(x, y, view, fq::stats_scales(d.stats, view, false), grid, nullptr);
    };
  };
  const auto lsq = [=](const fq::View& view) {
    return [=](const float* x, const float* dy, float* dx) {
      fq::lsq_backward_gpu(x, dy, dx, d.scale, d.result, view, grid, 0.01, work);
    };
  };
  rows->insert(rows->end(), {{"fake, tensor", 1, 1, fake(tensor, plain)},
                             {"fake, tensor, zero point", 1, 1, fake(tensor, zero)},
                             {"fake, tensor, multiplier", 1, 1, fake(tensor, times)},
                             {"fake, channel", 1, 1, fake(channels, plain)},
                             {"mask, tensor", 2, 1, mask(tensor)},
                             {"mask, channel", 2, 1, mask(channels)},
                             {"online, tensor", 2, 1, online(tensor)},
                             {"online, channel", 2, 1, online(channels)},
                             {"LSQ backward, tensor", 2, 1, lsq(tensor)},
                             {"LSQ backward, channel", 2, 1, lsq(channels)}});
}

void other_rows(std::vector<Row>* rows, const fq::View& tensor, const fq::View& images, const Numbers& d) {
  const int64_t n = tensor.size();
  const fq::Grid grid = {-127, 127, fq::kHalfAway};
  const fq::Workspace work = {d.scratch, nullptr};
  rows->push_back({"observed", 2, 1, [=](const float* x, const float*, float* y) {
                     fq::observe_gpu(x, d.state, d.stats, images, grid, false, 0.9, work);
                     fq::fake_gpu(x, y, tensor, fq::stats_scales(d.stats, tensor, false), grid, nullptr);
                   }});
  rows->push_back({"PACT", 1, 1, [=](const float* x, const float*, float* y) {
                     fq::pact_gpu(x, y, n, d.alpha, 15, nullptr);
                   }});
  rows->push_back({"CG-PACT backward", 2, 1, [=](const float* x, const float* dy, float* dx) {
                     fq::pact_backward_gpu(x, dy, dx, n, d.alpha, d.result, 15, true, work);
                   }});
  rows->push_back({"DoReFa (tanh in double)", 2, 1, [=](const float* x, const float*, float* y) {
                     fq::dorefa_gpu(x, y, n, 7, work);
                   }});
  rows->push_back({"DoReFa backward", 3, 1, [=](const float* x, const float* dy, float* dx) {
                     fq::dorefa_backward_gpu(x, dy, dx, n, work);
                   }});
  rows->push_back({"sign", 1, 1, [=](const float* x, const float*, float* y) { fq::sign_gpu(x, y, n, nullptr); }});
  rows->push_back({"sign backward", 2, 1, [=](const float* x, const float* dy, float* dx) {
                     fq::sign_backward_gpu(x, dy, dx, n, nullptr);
                   }});
}

}  // namespace

void time_kernels(const std::string& shape, int repeats) {
  long long images = 1, channels = 1, elements = 1;
  std::sscanf(shape.c_str(), "%lldx%lldx%lld", &images, &channels, &elements);
  fq::View tensor, by_channel, by_image;
  tensor.inner = images * channels * elements;
  by_channel.outer = images, by_channel.parts = channels, by_channel.inner = elements;
  by_image.parts = images, by_image.inner = channels * elements;
  const int64_t n = tensor.size(), bytes = n * sizeof(float);
  size_t available = 0, total = 0;
  CUDA_OK(cudaMemGetInfo(&available, &total));
  if (3 * static_cast<size_t>(bytes) > available / 10 * 9) {
    std::printf("\n%s: not timed, the card has too little memory\n", shape.c_str());
    return;
  }
  const int64_t wanted = std::max<int64_t>(1, (int64_t{512} << 20) / bytes);
  const Sets sets(n, std::min<size_t>({static_cast<size_t>(wanted), 8, available / 10 * 9 / (3 * bytes)}));
  Numbers numbers;
  numbers.make(channels,
               std::max({fq::scratch_bytes(tensor), fq::scratch_bytes(by_channel), fq::scratch_bytes(by_image)}));
  std::vector<Row> rows = {{"cudaMemcpyAsync", 1, 1, [=](const float* x, const float*, float* y) {
                              CUDA_OK(cudaMemcpyAsync(y, x, bytes, cudaMemcpyDeviceToDevice, nullptr));
                            }}};
  grid_rows(&rows, tensor, by_channel, numbers);
  other_rows(&rows, tensor, by_image, numbers);
  std::printf("\n%s float32, %.1f MiB, median of %d, %zu sets of tensors in turn\n", shape.c_str(), bytes / 1048576.0,
              repeats, sets.x.size());
  std::printf("%-26s %10s %10s %12s %12s\n", "kernel", "ms", "GB/s", "of the copy", "x its time");
  double copy_ms = 0;
  for (const Row& row : rows) {
    const double ms = median_ms(sets, repeats, row.body);
    if (copy_ms == 0) copy_ms = ms;
    const double share = (row.reads + row.writes) / 2.0 * copy_ms / ms;
    std::printf("%-26s %10.4f %10.0f %11.0f%% %12.2f\n", row.name, ms, (row.reads + row.writes) * bytes / ms / 1e6,
                100 * share, ms / copy_ms);
  }
  numbers.free();
}
