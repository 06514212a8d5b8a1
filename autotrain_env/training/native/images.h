// Minibatches gathered from the pool of images and normalised on the way.
#pragma once

#include <cstring>

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

  // One image; `next` is the one that will be wanted soon. The row's padding is left as it is.
  AUTOTRAIN_INLINE void gather_one(int32_t index, int32_t next, float* to) const {
    const float* from = pool + (int64_t)index * num_features;
    const char* ahead = (const char*)(pool + (int64_t)next * num_features);
    int k = 0;
    for (; k + kWidth <= num_features; k += kWidth) {
      if (k % kBlock == 0) __builtin_prefetch(ahead + k * 4);
      store(to + k, fma(load_unaligned(from + k), load_unaligned(scale + k), load_unaligned(shift + k)));
    }
    for (; k < num_features; k++) to[k] = std::fma(from[k], scale[k], shift[k]);
  }
};

// images (columns, stride) and transposed (features, columns) of `count` images; those after them are 0.
// Where only the latter is wanted, `images` has room for kWidth rows.
__attribute__((noinline)) inline void gather(const Images& source, const int32_t* indices, int count, float* images,
                                             long stride, bool keep_images, float* transposed, int columns) {
  const int features = padded(source.num_features);
  for (int b = 0; b < columns; b += kWidth) {
    float* rows = keep_images ? images + b * stride : images;
    for (int i = 0; i < kWidth; i++) {
      if (b + i < count)
        source.gather_one(indices[b + i], indices[std::min(b + i + 2, count - 1)], rows + i * stride);
      else
        std::memset(rows + i * stride, 0, features * 4);
    }
    for (int k = 0; k < features; k += kWidth) {
      Vector block[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; i++) block[i] = load(rows + i * stride + k);
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; i++) store(transposed + (long)(k + i) * columns + b, block[i]);
    }
  }
}

// Labels of a minibatch, padded by -1.
inline void pad_labels(const int32_t* from, int count, int columns, int32_t* to) {
  for (int b = 0; b < columns; b++) to[b] = b < count ? from[b] : -1;
}

}  // namespace autotrain
