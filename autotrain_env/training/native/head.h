// Softmax cross-entropy over classes, for many images at once: the images are on the vector axis.
#pragma once

#include <cstring>

#include "vectors.h"

namespace autotrain {
struct Head {
  const int32_t* labels;  // of padded images -1
  float* losses;          // log loss of each image [nats], 0 of padded ones
  int32_t* correct;       // 1 where the label is the first largest logit
  int32_t* finite;        // 1 where the largest logit is finite
};

// Computes losses of `columns` images (a multiple of kBlock) from logits (classes, columns).
// Where `error_scale` is not 0, the logits become the gradient of the losses times it; 0 for padded images.
// Losses may be left out for speed where no gradient is wanted either.
inline void softmax_cross_entropy(float* logits, int classes, int columns, const Head head, bool want_losses,
                                  float error_scale) {
  for (int b = 0; b < columns; b += kWidth) {
    IntVector label = load(head.labels + b), predicted = {};
    Vector largest = load(logits + b), own = largest;
    for (int c = 1; c < classes; c++) {
      Vector z = load(logits + (long)c * columns + b);
      IntVector more = !(z <= largest);  // NaN is largest
      more = more & (largest == largest);
      largest = more ? z : largest;
      predicted = more ? IntVector{} + c : predicted;
      own = label == c ? z : own;
    }
    store(head.correct + b, (predicted == label) & 1);
    store(head.finite + b, (largest - largest == 0.0f) & 1);
    if (!want_losses) continue;
    Vector sum = {};
    for (int c = 0; c < classes; c++) {
      float* at = logits + (long)c * columns + b;
      Vector e = exponential(load(at) - largest);
      if (error_scale != 0) store(at, e);
      sum += e;
    }
    IntVector is_padding = label < 0;
    store(head.losses + b, is_padding ? Vector{} : logarithm(sum) - (own - largest));
    if (error_scale == 0) continue;
    Vector factor = error_scale / sum;
    for (int c = 0; c < classes; c++) {
      float* at = logits + (long)c * columns + b;
      Vector e = load(at) * factor;
      e = label == c ? e - error_scale : e;
      store(at, is_padding ? Vector{} : e);
    }
  }
}

}  // namespace autotrain
