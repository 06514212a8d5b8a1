// A lane's multilayer perceptron.
#pragma once

#include <algorithm>
#include <vector>

#include "dense.h"
#include "head.h"
#include "images.h"

namespace autotrain {
class Mlp {
 public:
  // Whether members of a generation may share what their first layer makes of a minibatch; see members.h.
  static constexpr bool kSharesFirst = true;

  // Room for minibatches of so many images; kept where the last job needed the same.
  void prepare(const Job& job, int batch_size, bool for_training) {
    const int num_accumulators = for_training ? rule_entry(job.rule).accumulators : 0;
    const bool whole_gradient = for_training && job.max_grad_norm > 0;
    std::vector<int> plan(job.sizes, job.sizes + job.num_sizes);
    plan.insert(plan.end(), {batch_size, num_accumulators, whole_gradient, for_training});
    if (plan == plan_) return;
    plan_.clear();  // until all is laid out
    columns_ = padded(batch_size);
    num_accumulators_ = num_accumulators;
    layers_.resize(job.num_sizes - 1);
    inputs_.resize(layers_.size());
    errors_.resize(layers_.size());
    lay_out(arena_, [&](auto take) {
      for (size_t i = 0; i < layers_.size(); i++) {
        layers_[i].place(job.sizes[i], job.sizes[i + 1], num_accumulators, whole_gradient, take);
        Inputs& in = inputs_[i];
        in.stride = row_stride(job.sizes[i]);
        in.images = for_training ? take(columns_ * in.stride) : nullptr;
        in.transposed = take((long)padded(job.sizes[i]) * columns_);
        // In evaluation, what a layer gives is the next one's input, and only the last needs room of its own.
        const bool last = i + 1 == layers_.size();
        errors_[i] = for_training || last ? take((long)padded(job.sizes[i + 1]) * columns_) : nullptr;
      }
      head_.losses = take(columns_);
      head_.correct = (int32_t*)take(columns_);
      head_.finite = (int32_t*)take(columns_);
      labels_ = (int32_t*)take(columns_);
    });
    head_.labels = labels_;
    num_parameters_ = 0;
    for (const Dense& layer : layers_) num_parameters_ += layer.num_parameters();
    plan_ = plan;
  }

  int columns() const { return columns_; }
  const Head& head() const { return head_; }

  // Calls f(numbers here, numbers of the lane's row, count) for all parts; see `Dense::each_part`.
  template <class F>
  void each_part(float* row, F&& f) {
    long at = 0;
    for (Dense& layer : layers_) at = layer.each_part(row, at, num_parameters_, num_accumulators_, f);
  }

  // Calls f(layer) for all layers, the first one first.
  template <class F>
  void each_layer(F&& f) {
    for (Dense& layer : layers_) f(layer);
  }

  const Dense& first_layer() const { return layers_[0]; }
  bool has_hidden() const { return layers_.size() > 1; }

  // Where what the first layer gives belongs, in evaluation: (outputs, columns).
  float* after_first() { return has_hidden() ? inputs_[1].transposed : errors_[0]; }

  // Computes logits, and what follows from them, of one minibatch; see `softmax_cross_entropy`.
  void forward(const Images& source, const int32_t* indices, const int32_t* labels, int count, bool want_losses,
               float error_scale) {
    gather(source, indices, count, {inputs_[0].images, inputs_[0].stride, inputs_[0].transposed, columns_});
    forward_from(0, labels, count, want_losses, error_scale);
  }

  // The same from a layer's input on, which is there.
  void forward_from(size_t first, const int32_t* labels, int count, bool want_losses, float error_scale) {
    const size_t last = layers_.size() - 1;
    pad_labels(labels, count, columns_, labels_);
    for (size_t i = first; i < last; i++) {
      Inputs& next = inputs_[i + 1];
      layers_[i].forward(inputs_[i].transposed, next.transposed, columns_, true);
      if (next.images) turn(next.transposed, padded(layers_[i].outputs), columns_, next.images, next.stride);
    }
    if (first <= last) layers_[last].forward(inputs_[last].transposed, errors_[last], columns_, false);
    softmax_cross_entropy(errors_[last], layers_[last].outputs, columns_, head_, want_losses, error_scale);
  }

  // Computes the gradient of the minibatch that `forward` left, and updates the weights.
  void update(int count, Step step, UpdateTile update_tile, float max_grad_norm) {
    for (size_t i = layers_.size(); i-- > 0;) {
      Inputs& in = inputs_[i];
      if (i > 0) layers_[i].backward(errors_[i], in.transposed, errors_[i - 1], columns_);
      if (max_grad_norm > 0)
        layers_[i].keep_gradient(errors_[i], in.images, in.stride, count, columns_, false);
      else
        layers_[i].update(errors_[i], in.images, in.stride, count, columns_, step, update_tile);
    }
    if (!(max_grad_norm > 0)) return;
    double squares = 0;
    for (const Dense& layer : layers_) squares += layer.squared_norm();
    step.gradient_scale = clipping(squares, max_grad_norm);
    for (Dense& layer : layers_) layer.update_from_kept(step, update_tile);
  }

 private:
  struct Inputs {
    float *images, *transposed;
    long stride;
  };

  std::vector<int> plan_;
  Arena arena_;
  int columns_ = 0, num_accumulators_ = 0;
  int64_t num_parameters_ = 0;
  std::vector<Dense> layers_;
  std::vector<Inputs> inputs_;  // of each layer
  std::vector<float*> errors_;  // of each layer's outputs
  Head head_{};
  int32_t* labels_ = nullptr;
};

}  // namespace autotrain
