// A lane's convolutional network: stages of 3x3 convolution, ReLU and 2x2 max pooling, then one dense layer.
#pragma once

#include <algorithm>
#include <vector>

#include "convolution.h"
#include "head.h"
#include "images.h"
#include "mlp.h"

namespace autotrain {
// kBlock images of a minibatch go forward and back before the next ones do, so that what lies between stays in the
// second cache; their gradients are added up in ascending order.
class Cnn {
 public:
  static constexpr bool kSharesFirst = false;

  // Room for minibatches of so many images; kept where the last job needed the same.
  void prepare(const Job& job, int batch_size, bool for_training) {
    const int num_accumulators = for_training ? rule_entry(job.rule).accumulators : 0;
    std::vector<int> plan(job.sizes, job.sizes + job.num_sizes);
    plan.insert(plan.end(), {job.image_height, job.image_width, batch_size, num_accumulators, for_training});
    if (plan == plan_) return;
    plan_.clear();  // until all is laid out
    columns_ = padded(batch_size);
    num_accumulators_ = num_accumulators;
    stages_.resize(job.num_sizes - 2);
    lay_out(arena_, [&](auto take) {
      int height = job.image_height, width = job.image_width;
      num_parameters_ = 0;
      for (size_t i = 0; i < stages_.size(); i++) {
        Stage& stage = stages_[i];
        stage.place(job.sizes[i], job.sizes[i + 1], height, width, num_accumulators, for_training, i == 0, take);
        num_parameters_ += stage.kernels.num_parameters();
        height = stage.pooled_height();
        width = stage.pooled_width();
      }
      const int maps = job.sizes[stages_.size()], features = maps * height * width;
      last_.place(features, job.sizes[job.num_sizes - 1], num_accumulators, for_training, take);
      num_parameters_ += last_.num_parameters();
      features_.place(maps, height, width, 0, take);
      feature_stride_ = row_stride(features);
      feature_images_ = for_training ? take(kBlock * feature_stride_) : nullptr;
      logits_ = take(padded(last_.outputs) * kBlock);
      transposed_ = take((long)padded(job.num_features) * kBlock);
      head_.losses = take(columns_);
      head_.correct = (int32_t*)take(columns_);
      head_.finite = (int32_t*)take(columns_);
      labels_ = (int32_t*)take(columns_);
    });
    head_.labels = labels_;
    plan_ = plan;
  }

  int columns() const { return columns_; }
  const Head& head() const { return head_; }

  // Calls f(numbers here, numbers of the lane's row, count) for all parts; see `Dense::each_part`.
  template <class F>
  void each_part(float* row, F&& f) {
    long at = 0;
    for (Stage& stage : stages_) at = stage.kernels.each_part(row, at, num_parameters_, num_accumulators_, f);
    last_.each_part(row, at, num_parameters_, num_accumulators_, f);
  }

  // Calls f(layer) for all layers, the first one first.
  template <class F>
  void each_layer(F&& f) {
    for (Stage& stage : stages_) f(stage.kernels);
    f(last_);
  }

  // Computes logits, and what follows from them, of one minibatch; see `softmax_cross_entropy`. Where errors are
  // asked for, so is the gradient.
  void forward(const Images& source, const int32_t* indices, const int32_t* labels, int count, bool want_losses,
               float error_scale) {
    pad_labels(labels, count, columns_, labels_);
    for (int first = 0; first < count; first += kBlock) {
      const int images = std::min(kBlock, count - first);
      take_images(source, indices + first, images);
      for (size_t i = 0; i < stages_.size(); i++) {
        const Planes& pooled = i + 1 < stages_.size() ? stages_[i + 1].input : features_;
        error_scale != 0 ? stages_[i].forward<true>(pooled) : stages_[i].forward<false>(pooled);
      }
      last_.forward(features_.data, logits_, kBlock, false);
      const Head head{labels_ + first, head_.losses + first, head_.correct + first, head_.finite + first};
      softmax_cross_entropy(logits_, last_.outputs, kBlock, head, want_losses, error_scale);
      if (error_scale != 0) backward(images, first > 0);
    }
  }

  // Updates the weights by the gradient that `forward` left.
  void update(int, Step step, UpdateTile update_tile, float max_grad_norm) {
    if (max_grad_norm > 0) {
      double squares = last_.squared_norm();
      for (const Stage& stage : stages_) squares += stage.kernels.squared_norm();
      step.gradient_scale = clipping(squares, max_grad_norm);
    }
    for (Stage& stage : stages_) stage.kernels.update_from_kept(step, update_tile);
    last_.update_from_kept(step, update_tile);
  }

 private:
  // Puts up to kBlock images into the first stage. Places that are left hold the first of them once more, so that
  // no number comes up there that comes up nowhere else; their errors are 0.
  void take_images(const Images& source, const int32_t* indices, int count) {
    int32_t all[kBlock];
    for (int b = 0; b < kBlock; b++) all[b] = indices[b < count ? b : 0];
    gather(source, all, kBlock, {nullptr, 0, transposed_, kBlock});
    const Stage& stage = stages_[0];
    const long length = (long)stage.width * kBlock;
    const float* from = transposed_;
    for (int channel = 0; channel < stage.channels; channel++)
      for (int y = 0; y < stage.height; y++, from += length)
        std::memcpy(stage.input.at(channel, y, 0), from, length * 4);
  }

  // Computes the gradient of the images that went forward last, or adds it.
  void backward(int count, bool add) {
    turn(features_.data, padded(last_.inputs), kBlock, feature_images_, feature_stride_);
    last_.keep_gradient(logits_, feature_images_, feature_stride_, count, kBlock, add);
    last_.backward(logits_, features_.data, stages_.back().errors.data, kBlock);
    for (size_t i = stages_.size(); i-- > 0;) {
      stages_[i].keep_gradient(add);
      if (i == 0) break;
      stages_[i].spread_errors();
      stages_[i].backward(stages_[i - 1].errors);
    }
  }

  std::vector<int> plan_;
  Arena arena_;
  int columns_ = 0, num_accumulators_ = 0;
  int64_t num_parameters_ = 0;
  std::vector<Stage> stages_;
  Dense last_;
  Planes features_;  // what the last stage gives
  float* feature_images_ = nullptr;  // the same, image after image
  float* transposed_ = nullptr;      // images as they come from the pool
  float* logits_ = nullptr;
  long feature_stride_ = 0;
  Head head_{};
  int32_t* labels_ = nullptr;
};

}  // namespace autotrain
