// A stage of a convolutional network: 3x3 convolution with a border of zeros, ReLU and 2x2 max pooling.
//
// kBlock images are computed at a time, and lie on the vector axis: [map][y][x][image]. A tap of the kernel is then
// a number times whole vectors of pixels that are adjacent in memory, whatever the size of the image.
#pragma once

#include "dense.h"

namespace autotrain {
constexpr int kTaps = 9;

// Largest tiles: maps for four pixels each, as many as there are registers for sums.
#if defined(__AVX512F__)
constexpr int kTileMaps = 6, kGradientMaps = 2;
#elif defined(__AVX2__)
constexpr int kTileMaps = 3, kGradientMaps = 1;
#else
constexpr int kTileMaps = 5, kGradientMaps = 2;
#endif

// Maps of kBlock images, with or without a border of one pixel.
struct Planes {
  float* data;
  long row, plane;  // how far apart rows and maps are
  int border;

  template <class Take>
  void place(int maps, int height, int width, int border_, Take&& take) {
    border = border_;
    row = (long)(width + 2 * border) * kBlock;
    plane = (height + 2 * border) * row;
    // Maps that lie a multiple of 4,096 bytes apart would share few cache sets: they are set off by four pixels.
    if (border)
      while (plane / kBlock % 16 != 4) plane += kBlock;
    data = take((long)padded((int)(maps * plane / kBlock)) * kBlock);
  }

  AUTOTRAIN_INLINE float* at(int map, int y, int x) const {
    return data + map * plane + (y + border) * row + (long)(x + border) * kBlock;
  }
};

// Kernels as they are read on the way forward: from the channels of an image to its maps.
struct Kernels {
  const float* data;  // (maps, channels * kTaps)
  long stride;

  AUTOTRAIN_INLINE float at(int map, int channel, int tap) const {
    return data[map * stride + channel * kTaps + tap];
  }
  AUTOTRAIN_INLINE Kernels from(int map) const { return {data + map * stride, stride}; }
};

// The same on the way back, from maps to channels.
struct TurnedKernels {
  const float* data;
  long stride;

  AUTOTRAIN_INLINE float at(int channel, int map, int tap) const {
    return data[map * stride + channel * kTaps + kTaps - 1 - tap];
  }
  AUTOTRAIN_INLINE TurnedKernels from(int channel) const { return {data + channel * kTaps, stride}; }
};

// sums[map][pixel] += the convolution of `channels` planes, for kRows x kColumns pixels; `corner` is what the first
// tap of the first pixel falls on. Each number is one sum in ascending order of channels and taps.
template <int kMaps, int kRows, int kColumns, class Weights>
AUTOTRAIN_INLINE void convolve(const Weights& weights, const Planes& planes, const float* corner, int channels,
                               Vector (&sums)[kMaps][kRows * kColumns]) {
  for (int channel = 0; channel < channels; channel++, corner += planes.plane) {
#pragma GCC unroll 3
    for (int y = 0; y < 3; y++)
#pragma GCC unroll 3
      for (int x = 0; x < 3; x++) {
        Vector pixels[kRows * kColumns];
#pragma GCC unroll 4
        for (int p = 0; p < kRows * kColumns; p++)
          pixels[p] = load(corner + (y + p / kColumns) * planes.row + (x + p % kColumns) * kBlock);
#pragma GCC unroll 8
        for (int i = 0; i < kMaps; i++) {
          const float weight = weights.at(i, channel, y * 3 + x);
#pragma GCC unroll 4
          for (int p = 0; p < kRows * kColumns; p++) sums[i][p] = fma(weight, pixels[p], sums[i][p]);
        }
      }
  }
}

struct Stage {
  int channels, maps, height, width;
  Dense kernels;     // (maps, channels * kTaps): the parameters are kept and updated as a dense layer's
  Planes input;      // of the stage, with a border
  Planes errors;     // the gradient of what the stage gives, without a border
  Planes spread;     // the same before pooling: of the convolution's sums, with a border
  int32_t* winners;  // which of the four pixels was pooled, as `errors` lies
  float* parts;      // of sums over images

  int pooled_height() const { return height / 2; }
  int pooled_width() const { return width / 2; }

  template <class Take>
  void place(int channels_, int maps_, int height_, int width_, int num_accumulators, bool for_training, bool first,
             Take&& take) {
    channels = channels_;
    maps = maps_;
    height = height_;
    width = width_;
    kernels.place(channels * kTaps, maps, num_accumulators, for_training, take);
    input.place(channels, height, width, 1, take);
    if (!for_training) return;
    errors.place(maps, pooled_height(), pooled_width(), 0, take);
    winners = (int32_t*)take(maps * errors.plane);
    parts = take((long)std::max(kGradientMaps * padded(channels * kTaps), padded(maps)) * kBlock);
    if (!first) spread.place(maps, height, width, 1, take);
  }

  // pooled = what the stage gives for `input`; keeps the winners where kTraining.
  template <bool kTraining>
  __attribute__((noinline)) void forward(const Planes& pooled) {
    for (int y = 0; y < pooled_height(); y++)
      for (int x = 0; x < pooled_width(); x++)
        in_even_parts<kTileMaps>(maps, [&](auto tile_maps, int map) {
          constexpr int kMaps = decltype(tile_maps)::value;
          const long at = kTraining ? map * errors.plane + y * errors.row + x * kBlock : 0;
          for (int part = 0; part < kBlock; part += kWidth) {
            Vector sums[kMaps][4];
            for (int i = 0; i < kMaps; i++)
              for (int p = 0; p < 4; p++) sums[i][p] = fill(kernels.bias[map + i]);
            convolve<kMaps, 2, 2>(Kernels{kernels.weights, kernels.stride}.from(map), input,
                                  input.at(0, 2 * y - 1, 2 * x - 1) + part, channels, sums);
#pragma GCC unroll 8
            for (int i = 0; i < kMaps; i++) {
              IntVector winner;
              Vector largest = pool(sums[i], winner);
              store(pooled.at(map + i, y, x) + part, at_least(largest, Vector{}));
              if (kTraining) store(winners + at + i * errors.plane + part, winner);
            }
          }
        });
  }

  // The largest of four pixels and which it is, as torch.nn.MaxPool2d says: the first of equals, the last of NaNs.
  static AUTOTRAIN_INLINE Vector pool(const Vector* pixels, IntVector& winner) {
    Vector largest = pixels[0];
    winner = IntVector{};
#pragma GCC unroll 3
    for (int p = 1; p < 4; p++) {
      const IntVector more = (pixels[p] > largest) | (pixels[p] != pixels[p]);
      largest = more ? pixels[p] : largest;
      winner = more ? IntVector{} + p : winner;
    }
    return largest;
  }

  // Keeps the gradient of kernels and bias that follows from `errors`, or adds to it.
  __attribute__((noinline)) void keep_gradient(bool add) {
    in_even_parts<kGradientMaps>(maps, [&](auto tile_maps, int map) {
      constexpr int kMaps = decltype(tile_maps)::value;
      const long stride = (long)padded(channels * kTaps) * kBlock;
      for (int channel = 0; channel < channels; channel++)
        for (int part = 0; part < kBlock; part += kWidth)
          gradient_parts<kMaps>(map, channel, part, parts + channel * kTaps * kBlock + part, stride);
      for (int i = 0; i < kMaps; i++)
        add_up(parts + i * stride, channels * kTaps, kernels.gradient + (map + i) * kernels.stride, add);
    });
    for (int map = 0; map < maps; map++)
      for (int part = 0; part < kBlock; part += kWidth) {
        Vector sum = {};
        for (long at = 0; at < errors.plane; at += kBlock) sum += load(errors.data + map * errors.plane + at + part);
        store(parts + map * kBlock + part, sum);
      }
    add_up(parts, maps, kernels.bias_gradient, add);
  }

  // spread = errors at the winners' places, and 0 elsewhere.
  __attribute__((noinline)) void spread_errors() {
    for (int map = 0; map < maps; map++)
      for (int y = 0; y < pooled_height(); y++)
        for (int x = 0; x < pooled_width(); x++)
          for (int part = 0; part < kBlock; part += kWidth) {
            const long at = map * errors.plane + y * errors.row + x * kBlock + part;
            const Vector error = load(errors.data + at);
            const IntVector winner = load(winners + at);
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++)
              store(spread.at(map, 2 * y + p / 2, 2 * x + p % 2) + part, winner == p ? error : Vector{});
          }
  }

  // result = gradient of `input`, which is what ReLU units gave: 0 where they are. Follows from `spread`.
  __attribute__((noinline)) void backward(const Planes& result) const {
    for (int y = 0; y < height; y++)
      in_even_parts<4>(width, [&](auto tile_columns, int x) {
        constexpr int kColumns = decltype(tile_columns)::value;
        in_even_parts<kTileMaps>(channels, [&](auto tile_maps, int channel) {
          constexpr int kMaps = decltype(tile_maps)::value;
          for (int part = 0; part < kBlock; part += kWidth) {
            Vector sums[kMaps][kColumns] = {};
            convolve<kMaps, 1, kColumns>(TurnedKernels{kernels.weights, kernels.stride}.from(channel), spread,
                                         spread.at(0, y - 1, x - 1) + part, maps, sums);
#pragma GCC unroll 8
            for (int i = 0; i < kMaps; i++)
#pragma GCC unroll 4
              for (int p = 0; p < kColumns; p++) {
                const Vector unit = load(input.at(channel + i, y, x + p) + part);
                store(result.at(channel + i, y, x + p) + part, unit <= 0.0f ? Vector{} : sums[i][p]);
              }
          }
        });
      });
  }

 private:
  // The gradient of kMaps kernels on one channel, kWidth of its kBlock parts. Only the winners of pooling have an
  // error: of the 4x4 pixels below the taps of a pooled pixel, each image takes the 3x3 around its winner.
  template <int kMaps>
  AUTOTRAIN_INLINE void gradient_parts(int map, int channel, int part, float* to, long stride) const {
    Vector sums[kMaps][kTaps] = {};
    for (int y = 0; y < pooled_height(); y++) {
      const float* corner = input.at(channel, 2 * y - 1, -1) + part;
      long at = map * errors.plane + y * errors.row + part;
      for (int x = 0; x < pooled_width(); x++, corner += 2 * kBlock, at += kBlock) {
        Vector error[kMaps];
        Mask low[kMaps], right[kMaps];
#pragma GCC unroll 4
        for (int i = 0; i < kMaps; i++) {
          error[i] = load(errors.data + at + i * errors.plane);
          const IntVector winner = load(winners + at + i * errors.plane);
          low[i] = has_bits(winner, 2);
          right[i] = has_bits(winner, 1);
        }
#pragma GCC unroll 3
        for (int tap_row = 0; tap_row < 3; tap_row++) {
          Vector upper[4], lower[4];
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            upper[j] = load(corner + tap_row * input.row + j * kBlock);
            lower[j] = load(corner + (tap_row + 1) * input.row + j * kBlock);
          }
#pragma GCC unroll 4
          for (int i = 0; i < kMaps; i++) {
            Vector pixels[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) pixels[j] = select(low[i], lower[j], upper[j]);
#pragma GCC unroll 3
            for (int j = 0; j < 3; j++) {
              Vector& sum = sums[i][tap_row * 3 + j];
              sum = fma(error[i], select(right[i], pixels[j + 1], pixels[j]), sum);
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kMaps; i++)
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps; tap++) store(to + i * stride + tap * kBlock, sums[i][tap]);
  }

  // to[i] = the sum of row i of parts (count, kBlock), or += where `add`.
  static void add_up(const float* rows, int count, float* to, bool add) {
    for (int i = 0; i < count; i += kWidth) {
      const Vector sum = sums_of_rows(rows + (long)i * kBlock, kBlock, kBlock);
      store(to + i, add ? load(to + i) + sum : sum);
    }
  }
};

}  // namespace autotrain
