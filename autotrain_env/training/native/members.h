// Members of a generation of evolution: one centre's network, perturbed, on a minibatch that all of them share.
#pragma once

#include <cmath>
#include <vector>

#include "cnn.h"
#include "lanes.h"

namespace autotrain {

// The members; the job says what networks they are (and each pair of mirrored ones, or each other one, is a lane),
// its pool is the minibatch. The Python side (members.py) fills in the same fields in the same order.
struct Members {
  const float* centre;      // parameters of the network that is perturbed; null where there is none
  const float* numbers;     // a row for each lane: what its noise is made of, or, without a centre, its parameters
  int64_t numbers_stride;   // of these rows
  int32_t rank;             // of the noise of weights
  int32_t num_signs;        // 2 for mirrored pairs, which lie side by side
  const float* std;         // (layers, 2): standard deviations of the noise of weights, and of biases
  const float* weights;     // (images,): of their losses in the mean; null for 1 each
  double *losses, *accuracies;  // out, (members,): means over the minibatch
};

// Lanes that one thread takes at once.
constexpr int kLanesTogether = 8;

// Where the noise of one layer begins in a row of numbers: for each rank A (outputs) and B (inputs), then that of
// the bias.
struct LayerNoise {
  int inputs, outputs, rank;
  const float* numbers;
  float weight_std, bias_std;

  LayerNoise(const Dense& layer, const Members& members, const float* numbers_, int number)
      : inputs(layer.inputs), outputs(layer.outputs), rank(members.rank), numbers(numbers_),
        weight_std(members.std[2 * number] / std::sqrt((float)members.rank)),
        bias_std(members.std[2 * number + 1]) {}

  long size() const { return (long)rank * (inputs + outputs) + outputs; }
  const float* left(int r) const { return numbers + (long)r * (inputs + outputs); }
  const float* right(int r) const { return left(r) + outputs; }
  const float* bias() const { return left(rank); }
};

inline void perturb_bias(const float* centre, const LayerNoise& noise, float sign, float* bias) {
  const float std = sign * noise.bias_std;
  for (int m = 0; m < noise.outputs; m++) bias[m] = centre[m] + std * noise.bias()[m];
}

// Makes a layer's weights and bias; `centre` is where the layer's parameters begin.
inline void perturb(Dense& layer, const float* centre, const LayerNoise& noise, float sign) {
  for (int m = 0; m < layer.outputs; m++) {
    float* __restrict__ row = layer.weights + m * layer.stride;
    std::memcpy(row, centre + (long)m * layer.inputs, layer.inputs * 4);
    for (int r = 0; r < noise.rank; r++) {
      const float scale = sign * noise.weight_std * noise.left(r)[m];
      const float* __restrict__ right = noise.right(r);
      for (int k = 0; k < layer.inputs; k++) row[k] += scale * right[k];
    }
  }
  perturb_bias(centre + (long)layer.outputs * layer.inputs, noise, sign, layer.bias);
}

// What all members share of a multilayer perceptron's first layer: the minibatch, and what the centre makes of it,
// kEvaluationColumns images at a time.
class SharedFirst {
 public:
  SharedFirst(const Job& job, const Members& members) {
    chunks_ = (job.num_images + kEvaluationColumns - 1) / kEvaluationColumns;
    const int inputs = job.sizes[0], outputs = job.sizes[1];
    lay_out(arena_, [&](auto take) {
      layer_.place(inputs, outputs, 0, false, take);
      images_ = take(chunks_ * image_stride(inputs));
      sums_ = take(chunks_ * sum_stride(outputs));
    });
    layer_.each_part(const_cast<float*>(members.centre), 0, 0, 0,
                     [](float* here, const float* there, int count) { std::memcpy(here, there, count * 4); });
    const Images source{job.pool, job.scale, job.shift, job.num_features};
    for (int chunk = 0; chunk < chunks_; chunk++) {
      const int first = chunk * kEvaluationColumns, count = std::min(kEvaluationColumns, job.num_images - first);
      float* images = images_ + chunk * image_stride(inputs);
      gather(source, job.image_indices + first, count, {nullptr, 0, images, kEvaluationColumns});
      layer_.forward(images, sums_ + chunk * sum_stride(outputs), kEvaluationColumns, false);
    }
  }

  int chunks() const { return chunks_; }

  // projected (chunks, rank, lanes, kEvaluationColumns) = B of each lane times the images.
  void project(const Members& members, int64_t first_lane, int lanes, float* projected) const {
    const int inputs = layer_.inputs, outputs = layer_.outputs;
    const float* numbers = members.numbers + first_lane * members.numbers_stride + outputs;
    for (int chunk = 0; chunk < chunks_; chunk++) {
      const float* images = images_ + chunk * image_stride(inputs);
      for (int r = 0; r < members.rank; r++) {
        const RowsFactor right{numbers + (long)r * (inputs + outputs), members.numbers_stride};
        in_tiles(lanes, kEvaluationColumns, [&](auto rows, auto vectors, int row, int column) {
          tile<decltype(rows)::value, decltype(vectors)::value>(
              right.from(row, 0), images + column, kEvaluationColumns, inputs,
              [](int, int) { return Vector{}; },
              [&](int i, int j, Vector c) { store(projected + (row + i) * kEvaluationColumns + column + j, c); });
        });
        projected += lanes * kEvaluationColumns;
      }
    }
  }

  // result (outputs, kEvaluationColumns): what a member's first layer gives for one chunk.
  __attribute__((noinline)) void give(int chunk, const LayerNoise& noise, float sign, const float* projected,
                                      long rank_stride, bool relu, float* result) const {
    const float* sums = sums_ + chunk * sum_stride(layer_.outputs);
    const Vector floor = fill(relu ? 0.0f : -INFINITY);
    for (int m = 0; m < layer_.outputs; m++) {
      const Vector bias = fill(sign * noise.bias_std * noise.bias()[m]);
      for (int b = 0; b < kEvaluationColumns; b += kWidth) {
        Vector sum = load(sums + (long)m * kEvaluationColumns + b) + bias;
        for (int r = 0; r < noise.rank; r++)
          sum = fma(sign * noise.weight_std * noise.left(r)[m], load(projected + r * rank_stride + b), sum);
        store(result + (long)m * kEvaluationColumns + b, at_least(sum, floor));
      }
    }
  }

 private:
  static long image_stride(int inputs) { return (long)padded(inputs) * kEvaluationColumns; }
  static long sum_stride(int outputs) { return (long)padded(outputs) * kEvaluationColumns; }

  Arena arena_;
  Dense layer_;
  int chunks_;
  float *images_, *sums_;
};

// Sums what a member's images gave, and writes their means.
class Mean {
 public:
  // The images' weights begin with that of the first of `count` images that are added; or null.
  void add(const Head& head, int count, const float* weights) {
    for (int b = 0; b < count; b++) {
      loss_ += weights ? (double)head.losses[b] * weights[b] : head.losses[b];
      correct_ += head.correct[b];
    }
    count_ += count;
  }
  void write(const Members& members, int64_t member) const {
    members.losses[member] = loss_ / count_;
    members.accuracies[member] = (double)correct_ / count_;
  }

 private:
  double loss_ = 0;
  int64_t correct_ = 0, count_ = 0;
};

inline const float* weights_from(const Members& members, int image) {
  return members.weights ? members.weights + image : nullptr;
}

// Calls f(chunk, first image, number of images).
template <class F>
void in_chunks(const Job& job, F&& f) {
  for (int first = 0; first < job.num_images; first += kEvaluationColumns)
    f(first / kEvaluationColumns, first, std::min(kEvaluationColumns, job.num_images - first));
}

// A network whose weights stand, on the whole minibatch.
template <class Network>
Mean measure(const Job& job, const Members& members, Network& network) {
  Mean mean;
  const Images images{job.pool, job.scale, job.shift, job.num_features};
  in_chunks(job, [&](int, int first, int count) {
    network.forward(images, job.image_indices + first, job.image_labels + first, count, true, 0);
    mean.add(network.head(), count, weights_from(members, first));
  });
  return mean;
}

// Makes all layers from number `first` on, of one member.
template <class Network>
void perturb_layers(Network& network, const Members& members, const float* numbers, float sign, int first) {
  const float* centre = members.centre;
  int number = 0;
  network.each_layer([&](Dense& layer) {
    const LayerNoise noise(layer, members, numbers, number);
    if (number >= first) perturb(layer, centre, noise, sign);
    centre += layer.num_parameters();
    numbers += noise.size();
    number++;
  });
}

// Measures some lanes' members. `shared` is null but for low-rank noise of multilayer perceptrons.
template <class Network>
void measure_members(const Job& job, const Members& members, const SharedFirst* shared, int64_t first_lane) {
  const FlushDenormals flush;
  thread_local Network network;
  thread_local std::vector<float> room;
  network.prepare(job, kEvaluationColumns, false);
  const int lanes = (int)std::min<int64_t>(kLanesTogether, job.num_lanes - first_lane);
  const long rank_stride = lanes * kEvaluationColumns;
  float* projected = nullptr;
  if (shared) {
    const size_t needed = (size_t)shared->chunks() * members.rank * rank_stride + kBlock;
    if (room.size() < needed) room.resize(needed);
    projected = room.data() + (kBlock - ((uintptr_t)room.data() / 4) % kBlock) % kBlock;
    shared->project(members, first_lane, lanes, projected);
  }
  for (int lane = 0; lane < lanes; lane++) {
    const float* numbers = members.numbers + (first_lane + lane) * members.numbers_stride;
    for (int number = 0; number < members.num_signs; number++) {
      const float sign = number == 0 ? 1.0f : -1.0f;
      const int64_t member = (first_lane + lane) * members.num_signs + number;
      if (!members.centre)
        load_row(network, const_cast<float*>(numbers));
      else
        perturb_layers(network, members, numbers, sign, shared ? 1 : 0);
      if (!shared) {
        measure(job, members, network).write(members, member);
        continue;
      }
      if constexpr (Network::kSharesFirst) {
        const LayerNoise noise(network.first_layer(), members, numbers, 0);
        Mean mean;
        in_chunks(job, [&](int chunk, int first, int count) {
          const float* here = projected + (long)chunk * members.rank * rank_stride + lane * kEvaluationColumns;
          shared->give(chunk, noise, sign, here, rank_stride, network.has_hidden(), network.after_first());
          network.forward_from(1, job.image_labels + first, count, true, 0);
          mean.add(network.head(), count, weights_from(members, first));
        });
        mean.write(members, member);
      }
    }
  }
}

}  // namespace autotrain
