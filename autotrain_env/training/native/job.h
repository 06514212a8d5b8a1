// What one call is asked to do. The Python side (engine.py) fills in the same fields in the same order.
#pragma once

#include <cstdint>

namespace autotrain {

enum Rule : int32_t { kSgd, kMomentum, kNesterov, kRmsprop, kAdam };

struct Job {
  // The networks: sizes of all layers, from features to classes, or, where `convolutional`, image channels,
  // feature maps of every stage, and classes.
  int32_t convolutional;
  int32_t num_sizes;
  const int32_t* sizes;
  int32_t image_height, image_width;  // of convolutional networks
  int32_t num_features;               // of an image

  // The lanes: lane i's numbers are rows + slots[i] * row_stride.
  int64_t num_lanes;
  float* rows;
  int64_t row_stride;
  const int64_t* slots;
  const float *scale, *shift;  // of images, num_features numbers at slots[i] * num_features
  const float* pool;           // of images, num_features numbers each

  // Training: num_updates minibatches of batch_size images for every lane.
  int32_t num_updates, batch_size;
  const int32_t *indices, *labels;  // (num_lanes, num_updates, batch_size)
  const double* learning_rates;     // (num_lanes,)
  const double* coefficients;       // (num_updates, num_factors, num_lanes), as the optimiser's
  int32_t num_factors;
  int32_t rule;
  float weight_decay;     // added to the gradient
  float decoupled_decay;  // of the weights, times the rate
  float beta1, beta2, eps;
  float max_grad_norm;  // 0 for none
  double *losses, *accuracies;  // out, (num_lanes, num_updates)
  uint8_t* finite;              // out, (num_lanes,): whether all numbers of the lane's state are

  // Evaluation: num_images images for every lane.
  int32_t num_images;
  const int32_t *image_indices, *image_labels;  // (num_lanes, num_images)
  uint8_t *image_correct, *image_finite;        // out, (num_lanes, num_images): right, and a finite largest logit
  float* image_losses;                          // out, (num_lanes, num_images), or null

  int32_t num_threads;
};

}  // namespace autotrain
