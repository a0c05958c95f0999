// SPDX-License-Identifier: MIT
// The kernels' index arithmetic against plain 64-bit division, for views far larger than memory. Exit code 1: wrong.
#include <algorithm>
#include <cstdio>
#include <random>

#include "reduce.cuh"

namespace {

std::mt19937_64 random_bits(1);

int64_t up_to(int64_t most) { return 1 + static_cast<int64_t>(random_bits() % static_cast<uint64_t>(most)); }

const int64_t kMost = int64_t{1} << 60;

// A length of any magnitude.
int64_t length() { return up_to(int64_t{1} << up_to(34)); }

bool wraps_right() {
  const int64_t n = length();
  const fq::Wrap wrap(n);
  const int64_t value = up_to(n) - 1 + random_bits() % fq::kTile;
  return wrap.times(value) == value / n;
}

bool flat_right() {
  fq::View view;
  view.inner = length(), view.parts = std::min(length(), kMost / view.inner / 3), view.outer = 3;
  const fq::Layout layout(view);
  const int64_t start = up_to(int64_t{1} << 40) - 1;
  const int ahead = static_cast<int>(random_bits() % fq::kTile);
  const int64_t row = start / view.inner;
  fq::Place place = fq::place_after(layout, row % view.parts, start - row * view.inner, ahead);
  for (int64_t i = start + ahead; i < start + ahead + 4; ++i) {
    if (place.part != i / view.inner % view.parts || place.left != view.inner - i % view.inner) return false;
    fq::advance(layout, &place);
  }
  return true;
}

bool columns_right() {
  fq::View view;
  view.inner = length(), view.parts = up_to(1 << 20);
  view.outer = std::min(length(), kMost / view.inner / view.parts);
  const fq::Columns c(view);
  const int64_t inner = c.inner.length, part = up_to(view.parts) - 1;
  const int64_t start = (up_to(c.pieces) - 1) * c.tile;
  const int ahead = static_cast<int>(random_bits() % c.tile) / 4 * 4;
  const int64_t row = c.per_part == inner ? 0 : start / inner;
  const fq::Four four(c, part, row, start - row * inner, ahead, c.per_part - start - ahead);
  for (int e = 0; e < 4 && e < four.count; ++e) {
    const int64_t k = start + ahead + e;
    if (four.index(c, e) != (k / inner * view.parts + part) * inner + k % inner) return false;
    if (four.whole(c) && four.index(c, e) != four.at + e) return false;
  }
  return true;
}

}  // namespace

int main() {
  for (int i = 0; i < 300000; ++i) {
    if (wraps_right() && flat_right() && columns_right()) continue;
    std::printf("wrong in round %d\n", i);
    return 1;
  }
  std::printf("positions are right\n");
  return 0;
}
