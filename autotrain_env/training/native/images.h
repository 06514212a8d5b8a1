// Minibatches gathered from the pool of images and normalised on the way.
#pragma once

#include <algorithm>

#include "job.h"
#include "vectors.h"

namespace autotrain {
// What a lane's images are made of: rows of the pool times scale plus shift.
struct Images {
  const float *pool, *scale, *shift;
  int num_features;

  static Images of(const Job& job, int64_t lane) {
    const int64_t at = job.slots[lane] * job.num_features;
    return {job.pool, job.scale + at, job.shift + at, job.num_features};
  }

};

// Where a minibatch goes: image after image where `images` is not null, and transposed.
struct Minibatch {
  float* images;      // (columns, stride)
  long stride;        // at least `features`, padded
  float* transposed;  // (features, padded, columns)
  int columns;
};

// Takes kWidth features from k on of kWidth images from b on, of which there are `count`; the other images are 0.
template <class Load>
AUTOTRAIN_INLINE void gather_block(int count, int b, int k, const Minibatch& to, Load load_block) {
  Vector block[kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) {
    block[i] = i < count ? load_block(i) : Vector{};
    if (to.images) store(to.images + (b + i) * to.stride + k, block[i]);
  }
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) store(to.transposed + (long)(k + i) * to.columns + b, block[i]);
}

// Gathers `count` images; those after them are 0, as are the features that pad an image.
__attribute__((noinline)) inline void gather(const Images source, const int32_t* indices, int count,
                                             const Minibatch to) {
  const int features = source.num_features, whole = features / kWidth * kWidth;
  for (int b = 0; b < to.columns; b += kWidth) {
    const int here = std::max(0, std::min(kWidth, count - b));
    const float *rows[kWidth], *next_rows[kWidth];
    for (int i = 0; i < kWidth; i++) {
      rows[i] = source.pool + (int64_t)indices[std::min(b + i, count - 1)] * features;
      next_rows[i] = source.pool + (int64_t)indices[std::min(b + kWidth + i, count - 1)] * features;
    }
    for (int k = 0; k < whole; k += kWidth) {
      const Vector scale = load_unaligned(source.scale + k), shift = load_unaligned(source.shift + k);
      const auto load_block = [&](int i) {
        if (k % kBlock == 0) __builtin_prefetch(next_rows[i] + k);
        return fma(load_unaligned(rows[i] + k), scale, shift);
      };
      if (here == kWidth)
        gather_block(kWidth, b, k, to, load_block);
      else
        gather_block(here, b, k, to, load_block);
    }
    for (int k = whole; k < padded(features); k += kWidth)
      gather_block(here, b, k, to, [&](int i) {
        Vector values = {};
        for (int j = 0; j < kWidth && k + j < features; j++)
          values[j] = std::fma(rows[i][k + j], source.scale[k + j], source.shift[k + j]);
        return values;
      });
  }
}

// Labels of a minibatch, padded by -1.
inline void pad_labels(const int32_t* from, int count, int columns, int32_t* to) {
  for (int b = 0; b < columns; b++) to[b] = b < count ? from[b] : -1;
}

}  // namespace autotrain
