// Matrix products in register tiles: C[r][v] = start + sum over k of A(r, k) X[k][v], with v on the vector axis.
//
// Each number of C is one sum in ascending k, so that its bits depend on nothing but its row of A and its column
// of X: not on the tile it falls into, on what else is computed, or on the width of vectors.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace autotrain {
// Largest tiles: vectors side by side, and rows for each number of vectors; as many as there are registers.
#if defined(__AVX512F__)
constexpr int kMaxVectors = 4;
constexpr int kMaxRows[kMaxVectors + 1] = {0, 14, 12, 8, 6};
#elif defined(__AVX2__)
constexpr int kMaxVectors = 2;
constexpr int kMaxRows[kMaxVectors + 1] = {0, 10, 6};
#else
constexpr int kMaxVectors = 4;
constexpr int kMaxRows[kMaxVectors + 1] = {0, 14, 10, 8, 6};
#endif

// How much of the inner dimension is done at once: what X needs for it stays in the first cache.
constexpr int kDepth = 128;

// A(r, k) = data[r * row_stride + k * depth_stride].
template <bool kUnitDepth>
struct Factor {
  const float* data;
  long stride;  // of the other axis

  AUTOTRAIN_INLINE float at(int row, int k) const {
    return kUnitDepth ? data[row * stride + k] : data[k * stride + row];
  }
  AUTOTRAIN_INLINE Factor from(int row, int k) const {
    return {kUnitDepth ? data + row * stride + k : data + k * stride + row, stride};
  }
};
using RowsFactor = Factor<true>;      // row after row
using ColumnsFactor = Factor<false>;  // the transpose of such a matrix

template <int kRows, int kVectors, class A, class Start, class Finish>
AUTOTRAIN_INLINE void tile(A a, const float* x, long x_stride, int depth, Start start, Finish finish) {
  Vector c[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; j++) c[i][j] = start(i, j * kWidth);
  for (int k = 0; k < depth; k++) {
    Vector b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; j++) b[j] = load(x + k * x_stride + j * kWidth);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; i++) {
      float s = a.at(i, k);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; j++) c[i][j] = fma(s, b[j], c[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; j++) finish(i, j * kWidth, c[i][j]);
}

// Calls f with a number in [1, kMax] as a constant.
template <int kMax, int kFirst = 1, class F>
AUTOTRAIN_INLINE void with_constant(int number, F&& f) {
  if (number == kFirst)
    f(std::integral_constant<int, kFirst>{});
  else if constexpr (kFirst < kMax)
    with_constant<kMax, kFirst + 1>(number, f);
}

// Shares `count` things out to parts of at most kMax, as even as can be: f(constant size, first).
template <int kMax, class F>
AUTOTRAIN_INLINE void in_even_parts(int count, F&& f) {
  int parts = (count + kMax - 1) / kMax, small = count / parts, larger = count % parts;
  for (int part = 0, first = 0; part < parts; part++) {
    int size = small + (part < larger);
    with_constant<kMax>(size, [&](auto constant) { f(constant, first); });
    first += size;
  }
}

// Goes over `rows` rows and `columns` columns (a multiple of kWidth) in tiles:
// f(rows of the tile, vectors of the tile, first row, first column), the sizes as constants.
template <class F>
AUTOTRAIN_INLINE void in_tiles(int rows, int columns, F&& f) {
  in_even_parts<kMaxVectors>(columns / kWidth, [&](auto vectors, int first_vector) {
    constexpr int kVectors = decltype(vectors)::value;
    in_even_parts<kMaxRows[kVectors]>(
        rows, [&](auto tile_rows, int row) { f(tile_rows, vectors, row, first_vector * kWidth); });
  });
}

}  // namespace autotrain
