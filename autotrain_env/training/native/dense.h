// A dense layer on a minibatch: its products, and the update of its weights.
//
// Minibatches lie twice: image after image for the gradient, and transposed (one row for each feature, images on
// the vector axis) for all else. A minibatch is padded to `columns` images, a multiple of kBlock.
#pragma once

#include <cstring>

#include "arena.h"
#include "products.h"
#include "rules.h"

namespace autotrain {
// Rows that lie a multiple of 512 bytes apart would share few cache sets.
inline long row_stride(int count) {
  long stride = padded(count);
  return stride % 128 == 0 ? stride + kBlock : stride;
}

struct Dense {
  int inputs, outputs;
  long stride;               // of the rows of weights, accumulators and gradient
  float *weights, *bias;     // (outputs, stride), (outputs)
  float *accumulators[2], *bias_accumulators[2];
  float* gradient;           // (outputs, stride): where the whole of it is needed before the update
  float* bias_gradient;      // (outputs)

  template <class Take>
  void place(int inputs_, int outputs_, int num_accumulators, bool whole_gradient, Take&& take) {
    inputs = inputs_;
    outputs = outputs_;
    stride = row_stride(inputs);
    weights = take(outputs * stride);
    bias = take(padded(outputs));
    for (int i = 0; i < 2; i++) {  // those that a rule does not use may point anywhere
      accumulators[i] = i < num_accumulators ? take(outputs * stride) : weights;
      bias_accumulators[i] = i < num_accumulators ? take(padded(outputs)) : bias;
    }
    gradient = whole_gradient ? take(outputs * stride) : nullptr;
    bias_gradient = take(padded(outputs));
  }

  int64_t num_parameters() const { return (int64_t)(inputs + 1) * outputs; }

  // Calls f(numbers here, numbers of the lane's row, count) for every part that the two have in common, in the
  // order of the row: weights and bias of this layer start at row[at], accumulators num_parameters further each.
  template <class F>
  long each_part(float* row, long at, long num_parameters, int num_accumulators, F&& f) {
    for (int i = 0; i <= num_accumulators; i++) {
      float* from = row + i * num_parameters + at;
      float* rows = i == 0 ? weights : accumulators[i - 1];
      for (int m = 0; m < outputs; m++) f(rows + m * stride, from + (long)m * inputs, inputs);
      f(i == 0 ? bias : bias_accumulators[i - 1], from + (long)outputs * inputs, outputs);
    }
    return at + (long)outputs * inputs + outputs;
  }

  // outputs (outputs, columns) = weights inputs + bias, and the larger of 0 and that where `relu`.
  __attribute__((noinline)) void forward(const float* transposed, float* result, int columns, bool relu) const {
    for (int k = 0; k < inputs; k += kDepth) {
      const int depth = std::min(kDepth, inputs - k);
      const bool first = k == 0;
      const Vector floor = fill(relu && k + depth == inputs ? 0.0f : -INFINITY);
      in_tiles(outputs, columns, [&](auto rows, auto vectors, int row, int column) {
        float* to = result + (long)row * columns + column;
        const float* start = bias + row;
        tile<decltype(rows)::value, decltype(vectors)::value>(
            RowsFactor{weights, stride}.from(row, k), transposed + (long)k * columns + column, columns, depth,
            [=](int i, int j) { return first ? fill(start[i]) : load(to + (long)i * columns + j); },
            [=](int i, int j, Vector c) { store(to + (long)i * columns + j, at_least(c, floor)); });
      });
    }
  }

  // result (inputs, columns) = gradient of the transposed inputs, which are what ReLU units gave: 0 where they are.
  __attribute__((noinline)) void backward(const float* errors, const float* transposed, float* result,
                                          int columns) const {
    for (int k = 0; k < outputs; k += kDepth) {
      const int depth = std::min(kDepth, outputs - k);
      const bool first = k == 0, last = k + depth == outputs;
      in_tiles(inputs, columns, [&](auto rows, auto vectors, int row, int column) {
        float* to = result + (long)row * columns + column;
        const float* unit = transposed + (long)row * columns + column;
        tile<decltype(rows)::value, decltype(vectors)::value>(
            ColumnsFactor{weights, stride}.from(row, k), errors + (long)k * columns + column, columns, depth,
            [=](int i, int j) { return first ? Vector{} : load(to + (long)i * columns + j); },
            [=](int i, int j, Vector c) {
              const long at = (long)i * columns + j;
              if (last) c = load(unit + at) <= 0.0f ? Vector{} : c;
              store(to + at, c);
            });
      });
    }
  }

  // Calls use(gradient of a tile, its stride, first row, first column, rows, columns) for all tiles.
  // The gradient is the sum over `batch_size` images of errors (outputs, columns) times inputs (images, input_stride).
  template <class Use>
  __attribute__((noinline)) void each_gradient(const float* errors, const float* images, long input_stride,
                                               int batch_size, int columns, Use&& use) const {
    in_tiles(outputs, padded_to_vectors(inputs), [&](auto rows, auto vectors, int row, int column) {
      constexpr int kRows = decltype(rows)::value, kColumns = decltype(vectors)::value * kWidth;
      alignas(64) float found[kRows * kColumns];
      tile<kRows, decltype(vectors)::value>(
          RowsFactor{errors, columns}.from(row, 0), images + column, input_stride, batch_size,
          [](int, int) { return Vector{}; },
          [&](int i, int j, Vector c) { store(found + i * kColumns + j, c); });
      use(found, (long)kColumns, row, column, kRows, kColumns);
    });
  }

  // Takes the gradient into the weights at once.
  void update(const float* errors, const float* images, long input_stride, int batch_size, int columns,
              const Step& step, UpdateTile update) {
    each_gradient(errors, images, input_stride, batch_size, columns,
                  [&](const float* found, long found_stride, int row, int column, int rows, int width) {
                    update(step, found, found_stride, tile_at(row * stride + column), rows, width);
                  });
    sum_bias_gradient(errors, columns);
    update_bias(step, update);
  }

  // Keeps the gradient (or adds to it).
  void keep_gradient(const float* errors, const float* images, long input_stride, int batch_size, int columns,
                     bool add) {
    each_gradient(errors, images, input_stride, batch_size, columns,
                  [&](const float* found, long found_stride, int row, int column, int rows, int width) {
                    for (int i = 0; i < rows; i++)
                      for (int j = 0; j < width; j += kWidth) {
                        float* to = gradient + (row + i) * stride + column + j;
                        Vector g = load(found + i * found_stride + j);
                        store(to, add ? load(to) + g : g);
                      }
                  });
    sum_bias_gradient(errors, columns, add);
  }

  // The sum of the squares of what `keep_gradient` kept.
  double squared_norm() const {
    double sum = 0;
    for (int m = 0; m < outputs; m++) sum += sum_of_squares(gradient + m * stride, inputs);
    return sum + sum_of_squares(bias_gradient, outputs);
  }

  void update_from_kept(const Step& step, UpdateTile update) {
    for (int m = 0; m < outputs; m++)
      update(step, gradient + m * stride, stride, tile_at(m * stride), 1, padded_to_vectors(inputs));
    update_bias(step, update);
  }

 private:
  static int padded_to_vectors(int count) { return (count + kWidth - 1) / kWidth * kWidth; }

  static double sum_of_squares(const float* values, int count) {
    double parts[kBlock] = {}, sum = 0;
    for (int i = 0; i < count; i++) parts[i % kBlock] += (double)values[i] * values[i];
    for (double part : parts) sum += part;
    return sum;
  }

  Tile tile_at(long at) { return {weights + at, accumulators[0] + at, accumulators[1] + at, stride}; }

  void sum_bias_gradient(const float* errors, int columns, bool add = false) {
    for (int m = 0; m < outputs; m += kWidth) {
      Vector sum = sums_of_rows(errors + (long)m * columns, columns, columns);
      store(bias_gradient + m, add ? load(bias_gradient + m) + sum : sum);
    }
  }

  void update_bias(const Step& step, UpdateTile update) {
    const Tile tile{bias, bias_accumulators[0], bias_accumulators[1], 0};
    update(step, bias_gradient, 0, tile, 1, padded_to_vectors(outputs));
  }
};

// images (columns, stride) = transposed (count, columns), for `count` rows, a multiple of kBlock.
__attribute__((noinline)) inline void turn(const float* transposed, int count, int columns, float* images,
                                           long stride) {
  for (int k = 0; k < count; k += kWidth)
    for (int b = 0; b < columns; b += kWidth) {
      Vector block[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; i++) block[i] = load(transposed + (long)(k + i) * columns + b);
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; i++) store(images + (b + i) * stride + k, block[i]);
    }
}

}  // namespace autotrain
