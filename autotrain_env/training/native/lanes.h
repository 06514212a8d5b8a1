// What one thread does with one lane.
#pragma once

#include "flush.h"
#include "mlp.h"

namespace autotrain {
// Images evaluated at once.
constexpr int kEvaluationColumns = 64;

template <class Network>
void load_row(Network& network, float* row) {
  network.each_part(row, [](float* here, const float* there, int count) { std::memcpy(here, there, count * 4); });
}

// Returns whether all numbers are finite.
template <class Network>
bool store_row(Network& network, float* row) {
  bool finite = true;
  network.each_part(row, [&](const float* here, float* there, int count) {
    std::memcpy(there, here, count * 4);
    finite &= all_finite(here, count);
  });
  return finite;
}

template <class Network>
void train_lane(const Job& job, int64_t lane) {
  const FlushDenormals flush;
  thread_local Network network;
  network.prepare(job, job.batch_size, true);
  const RuleEntry rule = rule_entry(job.rule);
  const Images images = Images::of(job, lane);
  float* row = job.rows + job.slots[lane] * job.row_stride;
  load_row(network, row);
  for (int t = 0; t < job.num_updates; t++) {
    const int64_t at = lane * job.num_updates + t;
    const int32_t *indices = job.indices + at * job.batch_size, *labels = job.labels + at * job.batch_size;
    network.forward(images, indices, labels, job.batch_size, true, 1.0f / job.batch_size);
    network.update(job.batch_size, step_of(job, lane, t), rule.update, job.max_grad_norm);
    const Head& head = network.head();
    int correct = 0;
    for (int b = 0; b < job.batch_size; b++) correct += head.correct[b];
    job.losses[at] = sum_in_parts(head.losses, network.columns()) / job.batch_size;
    job.accuracies[at] = (double)correct / job.batch_size;
  }
  job.finite[lane] = store_row(network, row);
}

template <class Network>
void evaluate_lane(const Job& job, int64_t lane) {
  const FlushDenormals flush;
  thread_local Network network;
  network.prepare(job, kEvaluationColumns, false);
  const Images images = Images::of(job, lane);
  load_row(network, job.rows + job.slots[lane] * job.row_stride);
  for (int first = 0; first < job.num_images; first += kEvaluationColumns) {
    const int count = std::min(kEvaluationColumns, job.num_images - first);
    const int64_t at = lane * job.num_images + first;
    network.forward(images, job.image_indices + at, job.image_labels + at, count, job.image_losses != nullptr, 0);
    const Head& head = network.head();
    for (int b = 0; b < count; b++) {
      job.image_correct[at + b] = (uint8_t)head.correct[b];
      job.image_finite[at + b] = (uint8_t)head.finite[b];
    }
    if (job.image_losses) std::memcpy(job.image_losses + at, head.losses, count * 4);
  }
}

}  // namespace autotrain
