// The optimisers' update rules, as torch.optim has them, on tiles of a layer's weights.
#pragma once

#include "job.h"
#include "vectors.h"

namespace autotrain {
// Numbers of one lane and update.
struct Step {
  float rate, momentum;
  float weight_decay, keep;  // keep: what decoupled decay leaves of a weight
  float beta1, beta2, eps;
  float mean_correction, inverse_root_correction;
  float gradient_scale;  // below 1 where the gradient is clipped
};

// Weights and the optimiser's accumulators of one tile; rows are `stride` apart, in all of them alike.
struct Tile {
  float *weights, *first, *second;
  long stride;
};

struct Sgd {
  static constexpr int kAccumulators = 0;
  static AUTOTRAIN_INLINE Vector move(const Step& step, Vector gradient, Vector weight, float*, float*) {
    return fma(-step.rate, gradient, weight);
  }
};

struct Momentum {
  static constexpr int kAccumulators = 1;
  static AUTOTRAIN_INLINE Vector move(const Step& step, Vector gradient, Vector weight, float* velocity, float*) {
    Vector v = fma(step.momentum, load(velocity), gradient);
    store(velocity, v);
    return fma(-step.rate, v, weight);
  }
};

struct Nesterov {
  static constexpr int kAccumulators = 1;
  static AUTOTRAIN_INLINE Vector move(const Step& step, Vector gradient, Vector weight, float* velocity, float*) {
    Vector v = fma(step.momentum, load(velocity), gradient);
    store(velocity, v);
    return fma(-step.rate, fma(step.momentum, v, gradient), weight);
  }
};

struct Rmsprop {
  static constexpr int kAccumulators = 1;
  static AUTOTRAIN_INLINE Vector move(const Step& step, Vector gradient, Vector weight, float* square, float*) {
    Vector q = fma(1 - step.beta2, gradient * gradient, load(square) * step.beta2);
    store(square, q);
    return fma(-step.rate, gradient / (square_root(q) + step.eps), weight);
  }
};

struct Adam {
  static constexpr int kAccumulators = 2;
  static AUTOTRAIN_INLINE Vector move(const Step& step, Vector gradient, Vector weight, float* mean, float* square) {
    Vector m = load(mean);
    m = fma(1 - step.beta1, gradient - m, m);
    Vector q = fma(1 - step.beta2, gradient * gradient, load(square) * step.beta2);
    store(mean, m);
    store(square, q);
    Vector root = fma(step.inverse_root_correction, square_root(q), fill(step.eps));
    return fma(-(step.rate * step.mean_correction), m / root, weight);
  }
};

// Takes the gradient of a tile (rows `gradient_stride` apart) into the weights.
typedef void (*UpdateTile)(const Step& step, const float* gradient, long gradient_stride, const Tile& tile, int rows,
                           int columns);

template <class Rule>
void update_tile(const Step& numbers, const float* gradient, long gradient_stride, const Tile& places, int rows,
                 int columns) {
  const Step step = numbers;  // copies, which no store can change: they stay in registers
  const Tile tile = places;
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < columns; v += kWidth) {
      const long at = r * tile.stride + v;
      Vector w = load(tile.weights + at);
      Vector g = load(gradient + r * gradient_stride + v) * step.gradient_scale;
      if (step.weight_decay != 0) g = fma(step.weight_decay, w, g);  // 0 times an infinite weight would be NaN
      w = Rule::move(step, g, w * step.keep, tile.first + at, tile.second + at);
      store(tile.weights + at, w);
    }
}

struct RuleEntry {
  int accumulators;
  UpdateTile update;
};

inline RuleEntry rule_entry(int32_t rule) {
  switch (rule) {
    case kSgd: return {Sgd::kAccumulators, update_tile<Sgd>};
    case kMomentum: return {Momentum::kAccumulators, update_tile<Momentum>};
    case kNesterov: return {Nesterov::kAccumulators, update_tile<Nesterov>};
    case kRmsprop: return {Rmsprop::kAccumulators, update_tile<Rmsprop>};
    default: return {Adam::kAccumulators, update_tile<Adam>};
  }
}

// What a gradient is multiplied by so that its norm is at most `max_grad_norm`, from the sum of its squares.
inline float clipping(double squares, float max_grad_norm) {
  const float scale = max_grad_norm / ((float)std::sqrt(squares) + 1e-6f);
  return scale > 1 ? 1 : scale;
}

// The numbers of update t of lane i.
inline Step step_of(const Job& job, int64_t lane, int t) {
  auto coefficient = [&](int factor) {
    return (float)job.coefficients[((int64_t)t * job.num_factors + factor) * job.num_lanes + lane];
  };
  Step step{};
  step.rate = (float)job.learning_rates[lane];
  step.weight_decay = job.weight_decay;
  step.keep = 1 - step.rate * job.decoupled_decay;
  step.beta1 = job.beta1;
  step.beta2 = job.beta2;
  step.eps = job.eps;
  step.gradient_scale = 1;
  if (job.rule == kMomentum || job.rule == kNesterov) step.momentum = coefficient(0);
  if (job.rule == kAdam) {
    step.mean_correction = coefficient(0);
    step.inverse_root_correction = 1 / coefficient(1);
  }
  return step;
}

}  // namespace autotrain
