// SPDX-License-Identifier: MIT
// Reductions over the parts of a view, optionally writing a tensor in the same pass. A part is cut into pieces whose
// results are combined in a fixed order: nothing depends on the card, on timing or on alignment.
#ifndef QUANTIZE_OPS_REDUCE_CUH_
#define QUANTIZE_OPS_REDUCE_CUH_

#include "kernels.cuh"

namespace fq {

// A sum in double.
struct Total {
  double value;

  FQ_DEVICE static Total zero() { return {0.0}; }
  FQ_DEVICE void add(const Total& other) { value += other.value; }
  FQ_DEVICE Total below(int lanes) const { return {__shfl_down_sync(0xffffffffu, value, lanes)}; }
};

// The smallest and the largest value, and 0, as integers that order like floats: negative floats order backwards, and
// flipping their lower bits puts that right. A NaN lies beyond both infinities.
struct Range {
  int low;
  int high;

  FQ_DEVICE static int flipped(int bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }
  FQ_DEVICE static Range zero() { return {0, 0}; }
  FQ_DEVICE void add(float x) { add(Range{flipped(__float_as_int(x)), flipped(__float_as_int(x))}); }
  FQ_DEVICE void add(const Range& other) {
    low = other.low < low ? other.low : low;
    high = other.high > high ? other.high : high;
  }
  FQ_DEVICE Range below(int lanes) const {
    return {__shfl_down_sync(0xffffffffu, low, lanes), __shfl_down_sync(0xffffffffu, high, lanes)};
  }
  FQ_DEVICE float least() const { return __int_as_float(flipped(low)); }
  FQ_DEVICE float most() const { return __int_as_float(flipped(high)); }
};

// Combines the threads of a block; the result is right in thread 0 alone.
template <class Sum>
FQ_DEVICE Sum block_total(Sum sum) {
  __shared__ Sum warps[kThreads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = blockDim.x / 32;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum.add(sum.below(distance));
  if (count == 1) return sum;
  if (lane == 0) warps[warp] = sum;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < count; ++w) sum.add(warps[w]);
  __syncthreads();  // the next tile writes `warps` again
  return sum;
}

// How one part lies in memory: element k is at (k / inner * parts + part) * inner + k % inner.
struct Columns {
  Wrap inner;
  int64_t parts;
  int64_t per_part;
  int64_t tile;    // elements of one piece
  int64_t pieces;  // of one part
  int threads;

  explicit Columns(const View& view)
      : inner(merged(view).inner), parts(view.parts), per_part(view.per_part()) {
    threads = per_part <= 32 * kVectors * 4 ? 32 : kThreads;  // a warp is enough for small parts
    tile = threads * kVectors * 4;
    pieces = (per_part + tile - 1) / tile;
  }
};

// Up to four consecutive elements of a part.
struct Four {
  int64_t at;      // index of the first in the tensor
  int64_t offset;  // of the first in its row
  int64_t count;   // of the part from here on; not positive: none

  // `row` and `offset`: where the piece begins; `ahead`, `left`: elements from there, and from here to the part's end
  FQ_INLINE Four(const Columns& c, int64_t part, int64_t row, int64_t begin, int ahead, int64_t left) {
    const int64_t rows = c.inner.times(begin + ahead);
    offset = begin + ahead - rows * c.inner.length;
    at = ((row + rows) * c.parts + part) * c.inner.length + offset;
    count = left;
  }
  FQ_INLINE bool whole(const Columns& c) const { return count >= 4 && offset + 4 <= c.inner.length; }
  // index of element e; a row further on lies the rows of the other parts further on
  FQ_INLINE int64_t index(const Columns& c, int e) const {
    return at + e + c.inner.times(offset + e) * (c.parts - 1) * c.inner.length;
  }
};

FQ_DEVICE void gather(const float* p, const Columns& c, const Four& four, float* v) {
  if (four.whole(c) && aligned(p + four.at)) return load4<true>(p + four.at, 4, v);
#pragma unroll
  for (int e = 0; e < 4; ++e) v[e] = e < four.count ? p[four.index(c, e)] : 0.f;
}

FQ_DEVICE void scatter(float* p, const Columns& c, const Four& four, const float* v) {
  if (four.whole(c) && aligned(p + four.at)) return store4<true>(p + four.at, 4, v);
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (e < four.count) p[four.index(c, e)] = v[e];
}

// An Op holds device pointers and attributes:
//   static const bool kBackward (reads dy and writes dx); types Sum and Numbers; Numbers numbers(int64_t part);
//   float operator()(float x, float dy, const Numbers&, Sum*): dx
template <class Op>
FQ_DEVICE typename Op::Sum reduce_piece(const float* x, const float* dy, float* dx, const Columns& c, const Op& op,
                                        int64_t part, int64_t start) {
  const int64_t row = c.per_part == c.inner.length ? 0 : start / c.inner.length;
  const int64_t begin = start - row * c.inner.length;
  float xs[kVectors][4], dys[kVectors][4];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int ahead = (v * blockDim.x + threadIdx.x) * 4;
    const Four four(c, part, row, begin, ahead, c.per_part - start - ahead);
    gather(x, c, four, xs[v]);
    if (Op::kBackward) gather(dy, c, four, dys[v]);
  }
  typename Op::Sum sum = Op::Sum::zero();
  const typename Op::Numbers numbers = op.numbers(part);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int ahead = (v * blockDim.x + threadIdx.x) * 4;
    const Four four(c, part, row, begin, ahead, c.per_part - start - ahead);
    // elements past the end were read as 0 with a gradient of 0: they change neither a sum nor a range that holds 0
#pragma unroll
    for (int e = 0; e < 4; ++e) xs[v][e] = op(xs[v][e], Op::kBackward ? dys[v][e] : 0.f, numbers, &sum);
    if (Op::kBackward) scatter(dx, c, four, xs[v]);
  }
  return sum;
}

// A Finish is called once for each part: operator()(int64_t part, const Sum&).
template <class Op, class Finish>
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(const float* x, const float* dy, float* dx, Columns c, Op op, Finish finish, typename Op::Sum* partial) {
  for (int64_t piece = blockIdx.x; piece < c.parts * c.pieces; piece += gridDim.x) {
    const int64_t part = c.pieces == 1 ? piece : piece / c.pieces;
    const int64_t start = (piece - part * c.pieces) * c.tile;
    const typename Op::Sum sum = block_total(reduce_piece(x, dy, dx, c, op, part, start));
    if (threadIdx.x != 0) continue;
    if (c.pieces == 1)
      finish(part, sum);
    else
      partial[piece] = sum;
  }
}

template <class Sum, class Finish>
__global__ void __launch_bounds__(kThreads) finish_kernel(const Sum* partial, Columns c, Finish finish) {
  for (int64_t part = blockIdx.x; part < c.parts; part += gridDim.x) {
    Sum sum = Sum::zero();
    for (int64_t piece = threadIdx.x; piece < c.pieces; piece += blockDim.x) sum.add(partial[part * c.pieces + piece]);
    sum = block_total(sum);
    if (threadIdx.x == 0) finish(part, sum);
  }
}

// partial: parts * pieces results; dx may be x or dy.
template <class Op, class Finish>
void reduce(const float* x, const float* dy, float* dx, const View& view, const Op& op, const Finish& finish,
            void* partial, cudaStream_t stream) {
  const Columns c(view);
  typename Op::Sum* sums = static_cast<typename Op::Sum*>(partial);
  launch(reduce_kernel<Op, Finish>, c.parts * c.pieces, c.threads, stream, x, dy, dx, c, op, finish, sums);
  if (c.pieces == 1) return;
  const int threads = c.pieces <= 32 ? 32 : kThreads;
  launch(finish_kernel<typename Op::Sum, Finish>, c.parts, threads, stream, sums, c, finish);
}

}  // namespace fq

#endif  // QUANTIZE_OPS_REDUCE_CUH_
