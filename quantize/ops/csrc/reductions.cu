// SPDX-License-Identifier: MIT
// Kernels that take ranges or sums over a tensor.
#include "reduce.cuh"

namespace fq {
namespace {

const int64_t kPartial = 8;  // bytes of a Total or a Range
static_assert(sizeof(Total) == kPartial && sizeof(Range) == kPartial, "scratch_bytes counts on it");

// ---- ranges

struct RangeOp {
  static const bool kBackward = false;
  typedef Range Sum;
  typedef Nothing Numbers;

  FQ_DEVICE Nothing numbers(int64_t) const { return Nothing(); }
  FQ_DEVICE float operator()(float x, float, const Nothing&, Range* sum) const {
    sum->add(x);
    return x;
  }
};

// Not finite as soon as one of the two is: a NaN or an infinity that an unsigned grid would not see counts too.
FQ_DEVICE float poison(float low, float high) { return (low - low) + (high - high); }

// Largest magnitude a symmetric grid has to represent.
FQ_DEVICE float peak_of(float low, float high, bool is_signed) {
  const float peak = is_signed && -low > high ? -low : high;
  return peak + poison(low, high);
}

FQ_DEVICE Part cover(float low, float high, const Grid& grid, bool asymmetric) {
  if (asymmetric) {
    const Part part = part_of(low, high, grid);
    return {part.scale + poison(low, high), part.zero_point + poison(low, high), 0.f};
  }
  return {scale_of(peak_of(low, high, grid.qmin < 0), max_level(grid)), 0.f, 0.f};
}

struct StoreStats {
  float* stats;
  int64_t parts;
  Grid grid;
  bool asymmetric;

  FQ_DEVICE void operator()(int64_t part, const Range& range) const {
    const Part found = cover(range.least(), range.most(), grid, asymmetric);
    stats[part] = found.scale;
    stats[parts + part] = found.zero_point;
  }
};

struct StoreExtremes {
  float* lows;
  float* highs;

  FQ_DEVICE void operator()(int64_t image, const Range& range) const {
    lows[image] = range.least();
    highs[image] = range.most();
  }
};

struct Observation {
  const float* lows;
  const float* highs;
  int64_t images;
  double momentum;
  bool asymmetric;
};

// One thread: the images are added up in their order, as on the CPU, and they are few.
__global__ void observe_kernel(Observation seen, float* state, float* stats, Grid grid) {
  double low = 0, high = 0;
  for (int64_t i = 0; i < seen.images; ++i) {
    low += seen.lows[i] / static_cast<double>(seen.images);
    high += seen.highs[i] / static_cast<double>(seen.images);
  }
  const float bad = poison(static_cast<float>(low), static_cast<float>(high));
  const double keep = seen.momentum;
  if (bad == 0.f) {
    state[0] = static_cast<float>(keep * state[0] + (1 - keep) * low);
    state[1] = static_cast<float>(keep * state[1] + (1 - keep) * high);
    state[2] = static_cast<float>(keep * state[2] + (1 - keep));
  }
  const Part found = cover(state[0] / state[2] + bad, state[1] / state[2], grid, seen.asymmetric);
  stats[0] = found.scale;
  stats[1] = found.zero_point;
}

// ---- sums

struct StoreSum {
  float* out;
  double factor;

  FQ_DEVICE void operator()(int64_t part, const Total& sum) const {
    out[part] = static_cast<float>(sum.value * factor);
  }
};

template <Rounding R>
struct LsqOp {
  static const bool kBackward = true;
  typedef Total Sum;
  typedef float Numbers;

  const float* step;
  float qmin;
  float qmax;

  FQ_DEVICE float numbers(int64_t part) const { return __ldg(step + part); }
  FQ_DEVICE float operator()(float x, float dy, float s, Total* sum) const {
    sum->value += static_cast<double>(dy * step_slope<R>(x, s, qmin, qmax));
    return inside<R, false>(x, Part{s, 0.f, 0.f}, qmin, qmax) ? dy : 0.f;
  }
};

template <bool kCalibrated>
struct PactBackOp {
  static const bool kBackward = true;
  typedef Total Sum;
  typedef float Numbers;

  const float* alpha;
  float levels;

  FQ_DEVICE float numbers(int64_t) const { return __ldg(alpha); }
  FQ_DEVICE float operator()(float x, float dy, float a, Total* sum) const {
    sum->value += static_cast<double>(dy * pact_slope(x, a, levels, kCalibrated));
    return pact_inside(x, a) ? dy : 0.f;
  }
};

// ---- DoReFa

struct StoreDivisor {
  double* divisor;

  // max|tanh| = tanh(max|w|); 1 for weights that are all zero
  FQ_DEVICE void operator()(int64_t, const Range& range) const {
    const float peak = peak_of(range.least(), range.most(), true);
    *divisor = peak == 0.f ? 1.0 : tanh(static_cast<double>(peak));
  }
};

// d - d: a divisor that is NaN shows, although rounding makes a number of NaN
struct DorefaOp {
  static const bool kReadsGradient = false;
  typedef double Numbers;

  const double* divisor;
  float levels;

  FQ_DEVICE double numbers(int64_t) const { return __ldg(divisor); }
  FQ_DEVICE float operator()(float w, float, double d) const { return dorefa(w, d, levels) + static_cast<float>(d - d); }
};

struct DorefaBackOp {
  static const bool kReadsGradient = true;
  typedef double Numbers;

  const double* divisor;

  FQ_DEVICE double numbers(int64_t) const { return __ldg(divisor); }
  FQ_DEVICE float operator()(float w, float dy, double d) const { return dorefa_gradient(w, dy, d); }
};

// The divisor lies at the front of the scratch, the partial results behind it.
const double* find_divisor(const float* w, int64_t n, const Workspace& work) {
  double* divisor = static_cast<double*>(work.scratch);
  reduce(w, nullptr, nullptr, flat(n), RangeOp(), StoreDivisor{divisor}, divisor + 1, work.stream);
  return divisor;
}

}  // namespace

// Partial results, a pair of floats for each part (extremes of images), and a divisor.
int64_t scratch_bytes(const View& view) {
  const Columns c(view);
  return kPartial * (c.parts * c.pieces + c.parts + 1);
}

void find_stats_gpu(const float* x, float* stats, const View& view, const Grid& grid, bool asymmetric,
                    const Workspace& work) {
  reduce(x, nullptr, nullptr, view, RangeOp(), StoreStats{stats, view.parts, grid, asymmetric}, work.scratch,
         work.stream);
}

void observe_gpu(const float* x, float* state, float* stats, const View& images, const Grid& grid, bool asymmetric,
                 double momentum, const Workspace& work) {
  float* lows = static_cast<float*>(work.scratch);
  float* highs = lows + images.parts;
  reduce(x, nullptr, nullptr, images, RangeOp(), StoreExtremes{lows, highs}, highs + images.parts, work.stream);
  launch(observe_kernel, 1, 1, work.stream, Observation{lows, highs, images.parts, momentum, asymmetric}, state, stats,
         grid);
}

void lsq_backward_gpu(const float* x, const float* dy, float* dx, const float* step, float* dstep, const View& view,
                      const Grid& grid, double factor, const Workspace& work) {
  const StoreSum store = {dstep, factor};
  if (grid.rounding == kHalfEven)
    reduce(x, dy, dx, view, LsqOp<kHalfEven>{step, grid.qmin, grid.qmax}, store, work.scratch, work.stream);
  else
    reduce(x, dy, dx, view, LsqOp<kHalfAway>{step, grid.qmin, grid.qmax}, store, work.scratch, work.stream);
}

void pact_backward_gpu(const float* x, const float* dy, float* dx, int64_t n, const float* alpha, float* dalpha,
                       float levels, bool calibrated, const Workspace& work) {
  const StoreSum store = {dalpha, 1.0};
  if (calibrated)
    reduce(x, dy, dx, flat(n), PactBackOp<true>{alpha, levels}, store, work.scratch, work.stream);
  else
    reduce(x, dy, dx, flat(n), PactBackOp<false>{alpha, levels}, store, work.scratch, work.stream);
}

void dorefa_gpu(const float* w, float* y, int64_t n, float levels, const Workspace& work) {
  map(w, nullptr, y, flat(n), DorefaOp{find_divisor(w, n, work), levels}, work.stream);
}

void dorefa_backward_gpu(const float* w, const float* dy, float* dw, int64_t n, const Workspace& work) {
  map(w, dy, dw, flat(n), DorefaBackOp{find_divisor(w, n, work)}, work.stream);
}

}  // namespace fq
