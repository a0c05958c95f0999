// SPDX-License-Identifier: MIT
// Runs every kernel on a file of cases and compares with what the NumPy reference expects, then times the kernels.
//   harness CASES [--repeats N] [--shapes NxCxL,...]
// Exit code: 0 all equal, 1 differences, 2 a CUDA call failed, 3 no GPU.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "bandwidth.h"
#include "buffer.h"
#include "cases.h"
#include "kernels.h"

namespace {

// One run of a case: its arrays on the device. An output that has an input's name is that input, changed.
class Run {
 public:
  Run(const Case& c, bool in_place) : case_(c) {
    const int shift = static_cast<int>(c.number("shift"));
    for (const auto& input : c.inputs) buffers_[input.first].reset(new Buffer(input.second.values, shift));
    for (const auto& output : c.outputs) {
      std::shared_ptr<Buffer>& buffer = buffers_[output.first];
      if (in_place && c.inputs.count("x") && (output.first == "y" || output.first == "dx")) buffer = buffers_["x"];
      if (!buffer) buffer.reset(new Buffer(output.second.values.size(), shift));
    }
    const int64_t bytes = std::max(fq::scratch_bytes(view()), fq::scratch_bytes(images()));
    CUDA_OK(cudaMalloc(&scratch_, bytes));
    CUDA_OK(cudaMemset(scratch_, 0xff, bytes));
  }
  ~Run() { cudaFree(scratch_); }

  float* at(const char* name) { return buffers_.count(name) ? buffers_[name]->data() : nullptr; }
  float number(const char* name) const { return static_cast<float>(case_.number(name)); }
  double precise(const char* name) const { return case_.number(name); }
  bool flag(const char* name) const { return case_.number(name) != 0; }
  int64_t size() const { return view().size(); }
  fq::Workspace work() const { return {scratch_, nullptr}; }

  fq::View view() const {
    fq::View view;
    view.outer = static_cast<int64_t>(case_.number("outer"));
    view.parts = static_cast<int64_t>(case_.number("parts"));
    view.inner = static_cast<int64_t>(case_.number("inner"));
    return view;
  }
  fq::View images() const {
    fq::View images;
    images.parts = static_cast<int64_t>(case_.number("images"));
    images.inner = size() / images.parts;
    return images;
  }
  fq::Grid grid() const {
    return {number("qmin"), number("qmax"), static_cast<fq::Rounding>(static_cast<int>(number("rounding")))};
  }
  fq::Scales scales() { return {at("scale"), at("zero_point"), at("multiplier")}; }
  bool guarded() {
    for (const auto& buffer : buffers_)
      if (!buffer.second->guarded()) return false;
    return true;
  }
  std::vector<float> values(const std::string& name) { return buffers_[name]->values(); }

 private:
  const Case& case_;
  std::map<std::string, std::shared_ptr<Buffer>> buffers_;
  void* scratch_ = nullptr;
};

typedef std::function<void(Run&)> Kernel;

void online(Run& r) {
  fq::find_stats_gpu(r.at("x"), r.at("stats"), r.view(), r.grid(), r.flag("asymmetric"), r.work());
  fq::fake_gpu(r.at("x"), r.at("y"), r.view(), fq::stats_scales(r.at("stats"), r.view(), r.flag("asymmetric")), r.grid(),
               nullptr);
}

void observed(Run& r) {
  fq::observe_gpu(r.at("x"), r.at("state"), r.at("stats"), r.images(), r.grid(), r.flag("asymmetric"),
                  r.precise("momentum"), r.work());
  fq::fake_gpu(r.at("x"), r.at("y"), r.view(), fq::stats_scales(r.at("stats"), r.view(), r.flag("asymmetric")), r.grid(),
               nullptr);
}

const std::map<std::string, Kernel>& kernels() {
  static const std::map<std::string, Kernel> all = {
      {"fake", [](Run& r) { fq::fake_gpu(r.at("x"), r.at("y"), r.view(), r.scales(), r.grid(), nullptr); }},
      {"mask", [](Run& r) { fq::mask_gpu(r.at("x"), r.at("dy"), r.at("dx"), r.view(), r.scales(), r.grid(), nullptr); }},
      {"online", online},
      {"observed", observed},
      {"lsq_backward",
       [](Run& r) {
         fq::lsq_backward_gpu(r.at("x"), r.at("dy"), r.at("dx"), r.at("step"), r.at("dstep"), r.view(), r.grid(),
                              r.precise("factor"), r.work());
       }},
      {"pact", [](Run& r) { fq::pact_gpu(r.at("x"), r.at("y"), r.size(), r.at("alpha"), r.number("levels"), nullptr); }},
      {"pact_backward",
       [](Run& r) {
         fq::pact_backward_gpu(r.at("x"), r.at("dy"), r.at("dx"), r.size(), r.at("alpha"), r.at("dalpha"),
                               r.number("levels"), r.flag("calibrated"), r.work());
       }},
      {"dorefa", [](Run& r) { fq::dorefa_gpu(r.at("x"), r.at("y"), r.size(), r.number("levels"), r.work()); }},
      {"dorefa_backward",
       [](Run& r) { fq::dorefa_backward_gpu(r.at("x"), r.at("dy"), r.at("dx"), r.size(), r.work()); }},
      {"sign", [](Run& r) { fq::sign_gpu(r.at("x"), r.at("y"), r.size(), nullptr); }},
      {"sign_backward",
       [](Run& r) { fq::sign_backward_gpu(r.at("x"), r.at("dy"), r.at("dx"), r.size(), nullptr); }},
      {"zero", [](Run& r) { fq::zero_gpu(r.at("y"), r.size(), nullptr); }},
  };
  return all;
}

bool same(float got, float expected, const Array& rule) {
  if (std::isnan(expected)) return std::isnan(got);
  if (got == expected) return true;
  if (rule.tolerance == 0 || !std::isfinite(expected)) return false;
  return std::fabs(double{got} - expected) <= rule.tolerance * std::fabs(double{expected}) + rule.floor;
}

// Differing elements of one output; the first few are printed.
size_t compare(const Case& c, const std::string& name, const std::vector<float>& got, const char* how) {
  const Array& expected = c.outputs.at(name);
  size_t wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (same(got[i], expected.values[i], expected) || ++wrong > 3) continue;
    std::printf("  %s %s%s: %s[%zu] is %.9g, expected %.9g", c.kernel.c_str(), c.title.c_str(), how, name.c_str(), i,
                got[i], expected.values[i]);
    const auto x = c.inputs.find("x");
    if (x != c.inputs.end() && x->second.values.size() == got.size()) std::printf(", x = %.9g", x->second.values[i]);
    std::printf("\n");
  }
  return wrong;
}

// Runs a case twice, and once more writing over its input where the case allows it.
size_t differences(const Case& c) {
  size_t wrong = 0;
  std::map<std::string, std::vector<float>> first;
  for (int turn = 0; turn < (c.number("in_place") ? 3 : 2); ++turn) {
    Run run(c, turn == 2);
    kernels().at(c.kernel)(run);
    CUDA_OK(cudaDeviceSynchronize());
    if (!run.guarded()) std::printf("  %s %s: wrote beside its output\n", c.kernel.c_str(), c.title.c_str()), ++wrong;
    for (const auto& output : c.outputs) {
      const std::vector<float> got = run.values(output.first);
      if (turn != 1) wrong += compare(c, output.first, got, turn == 2 ? " (in place)" : "");
      if (turn == 0) first[output.first] = got;
      if (turn == 1 && std::memcmp(got.data(), first[output.first].data(), got.size() * sizeof(float)) != 0)
        std::printf("  %s %s: %s changes from run to run\n", c.kernel.c_str(), c.title.c_str(), output.first.c_str()), ++wrong;
    }
  }
  return wrong;
}

struct Count {
  size_t cases = 0, elements = 0, wrong = 0;
};

size_t judge(const std::vector<Case>& cases) {
  std::map<std::string, Count> counts;
  for (const auto& kernel : kernels()) counts[kernel.first];
  for (const Case& c : cases) {
    Count& count = counts.at(c.kernel);
    ++count.cases;
    for (const auto& output : c.outputs) count.elements += output.second.values.size();
    count.wrong += differences(c);
  }
  size_t wrong = 0;
  std::printf("\n%-16s %8s %12s %12s\n", "kernel", "cases", "elements", "mismatches");
  for (const auto& count : counts) {
    const Count& n = count.second;
    std::printf("%-16s %8zu %12zu %12zu%s\n", count.first.c_str(), n.cases, n.elements, n.wrong,
                n.cases ? "" : "  NOT RUN");
    wrong += n.wrong + (n.cases ? 0 : 1);
  }
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no GPU: nothing was run\n");
    return 3;
  }
  std::string shapes, path = argc > 1 ? argv[1] : "";
  int repeats = 30;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--repeats") repeats = std::atoi(argv[i + 1]);
    if (std::string(argv[i]) == "--shapes") shapes = argv[i + 1];
  }
  cudaDeviceProp device;
  int driver = 0, runtime = 0;
  CUDA_OK(cudaGetDeviceProperties(&device, 0));
  CUDA_OK(cudaDriverGetVersion(&driver));
  CUDA_OK(cudaRuntimeGetVersion(&runtime));
  std::printf("%s, compute capability %d.%d, driver %d, runtime %d\n", device.name, device.major, device.minor, driver,
              runtime);
  try {
    const size_t wrong = judge(read_cases(path));
    std::printf("%zu mismatches\n", wrong);
    std::istringstream list(shapes);
    for (std::string shape; std::getline(list, shape, ',');) time_kernels(shape, repeats);
    return wrong ? 1 : 0;
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 2;
  }
}
