// Vectors of float32 as wide as the processor's, and what is done to all of their numbers at once.
//
// The engine is built once for each instruction set, as a library of its own. A multiplication is joined with an addition where `fma` says so and nowhere else (the build switches the
// compiler's own joining off), so that all widths round alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define AUTOTRAIN_INLINE inline __attribute__((always_inline))

namespace autotrain {
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

// Room is padded to this many numbers, and sums over one vector axis are kept in as many parts, whatever the
// width: what a result is must not depend on it.
constexpr int kBlock = 16;

typedef float Vector __attribute__((vector_size(4 * kWidth), may_alias));
typedef float UnalignedVector __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef int32_t IntVector __attribute__((vector_size(4 * kWidth), may_alias));

inline int padded(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

AUTOTRAIN_INLINE Vector load(const float* from) { return *(const Vector*)from; }
AUTOTRAIN_INLINE Vector load_unaligned(const float* from) { return *(const UnalignedVector*)from; }
AUTOTRAIN_INLINE void store(float* to, Vector value) { *(Vector*)to = value; }
AUTOTRAIN_INLINE IntVector load(const int32_t* from) { return *(const IntVector*)from; }
AUTOTRAIN_INLINE void store(int32_t* to, IntVector value) { *(IntVector*)to = value; }

AUTOTRAIN_INLINE Vector fill(float value) { return value - Vector{}; }

AUTOTRAIN_INLINE Vector fma(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
  return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return (Vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

AUTOTRAIN_INLINE Vector fma(float a, Vector b, Vector c) { return fma(fill(a), b, c); }

AUTOTRAIN_INLINE Vector square_root(Vector x) {
  Vector root;
  for (int i = 0; i < kWidth; i++) root[i] = __builtin_sqrtf(x[i]);
  return root;
}

// One bit of a choice between two numbers for each place.
#if defined(__AVX512F__)
typedef __mmask16 Mask;
AUTOTRAIN_INLINE Mask has_bits(IntVector value, int32_t bits) {
  return _mm512_test_epi32_mask((__m512i)value, _mm512_set1_epi32(bits));
}
AUTOTRAIN_INLINE Vector select(Mask mask, Vector yes, Vector no) {
  return (Vector)_mm512_mask_blend_ps(mask, (__m512)no, (__m512)yes);
}
#elif defined(__AVX2__)
typedef IntVector Mask;
AUTOTRAIN_INLINE Mask has_bits(IntVector value, int32_t bits) { return (value & bits) != 0; }
AUTOTRAIN_INLINE Vector select(Mask mask, Vector yes, Vector no) {
  return (Vector)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
}
#else
typedef IntVector Mask;
AUTOTRAIN_INLINE Mask has_bits(IntVector value, int32_t bits) { return (value & bits) != 0; }
AUTOTRAIN_INLINE Vector select(Mask mask, Vector yes, Vector no) {
  return (Vector)vbslq_f32((uint32x4_t)mask, (float32x4_t)yes, (float32x4_t)no);
}
#endif

// NaN where x is NaN.
AUTOTRAIN_INLINE Vector at_least(Vector x, Vector bound) { return x < bound ? bound : x; }

// e^x for x <= 0, by Cody and Waite's reduction and a polynomial of Cephes; 1.6e-38 below -87.
AUTOTRAIN_INLINE Vector exponential(Vector x) {
  x = at_least(x, fill(-87.0f));
  Vector shifted = fma(1.44269504f, x, fill(12582912.0f));  // the whole part of x / log 2 is in its low bits
  IntVector whole = (IntVector)shifted - 0x4B400000;
  Vector parts = shifted - 12582912.0f;
  Vector rest = fma(-0.693359375f, parts, x);
  rest = fma(2.12194440e-4f, parts, rest);
  Vector p = fill(1.9875691500e-4f);
  p = fma(p, rest, fill(1.3981999507e-3f));
  p = fma(p, rest, fill(8.3334519073e-3f));
  p = fma(p, rest, fill(4.1665795894e-2f));
  p = fma(p, rest, fill(1.6666665459e-1f));
  p = fma(p, rest, fill(5.0000001201e-1f));
  p = fma(p, rest * rest, rest) + 1.0f;
  return p * (Vector)((whole + 127) << 23);
}

// Natural logarithm for x >= 1, by a polynomial of Cephes; NaN for NaN.
AUTOTRAIN_INLINE Vector logarithm(Vector x) {
  IntVector bits = (IntVector)x;
  IntVector exponent = (bits >> 23) - 126;
  Vector mantissa = (Vector)((bits & 0x007FFFFF) | 0x3F000000);  // in [0.5, 1)
  IntVector low = mantissa < 0.70710678f;
  exponent += low;
  mantissa = (low ? mantissa + mantissa : mantissa) - 1.0f;
  Vector square = mantissa * mantissa;
  Vector p = fill(7.0376836292e-2f);
  p = fma(p, mantissa, fill(-1.1514610310e-1f));
  p = fma(p, mantissa, fill(1.1676998740e-1f));
  p = fma(p, mantissa, fill(-1.2420140846e-1f));
  p = fma(p, mantissa, fill(1.4249322787e-1f));
  p = fma(p, mantissa, fill(-1.6668057665e-1f));
  p = fma(p, mantissa, fill(2.0000714765e-1f));
  p = fma(p, mantissa, fill(-2.4999993993e-1f));
  p = fma(p, mantissa, fill(3.3333331174e-1f));
  Vector scale = __builtin_convertvector(exponent, Vector);
  Vector y = fma(scale, fill(-2.12194440e-4f), p * mantissa * square);
  y = fma(-0.5f, square, y);
  y = fma(0.693359375f, scale, mantissa + y);
  return x != x ? x : y;
}

// --- transposition of kWidth vectors in registers ---

#if defined(__AVX512F__)
// First within the four lanes of 128 bits, then whole lanes: these need no registers for indices.
AUTOTRAIN_INLINE void transpose_by_lanes(Vector* rows) {
  __m512 pairs[16], fours[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      const __m512d a = _mm512_castps_pd(pairs[i + j]), b = _mm512_castps_pd(pairs[i + j + 2]);
      fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // lanes 0 and 2, or 1 and 3, of both
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const __m512 a = _mm512_shuffle_f32x4(fours[i], fours[i + 4], kEven);
    const __m512 b = _mm512_shuffle_f32x4(fours[i], fours[i + 4], kOdd);
    const __m512 c = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], kEven);
    const __m512 d = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], kOdd);
    rows[i] = (Vector)_mm512_shuffle_f32x4(a, c, kEven);
    rows[i + 4] = (Vector)_mm512_shuffle_f32x4(b, d, kEven);
    rows[i + 8] = (Vector)_mm512_shuffle_f32x4(a, c, kOdd);
    rows[i + 12] = (Vector)_mm512_shuffle_f32x4(b, d, kOdd);
  }
}
#else
template <int Step, bool High>
constexpr int mixed_index(int i) {
  if (!High) return (i & Step) ? kWidth + (i & ~Step) : i;
  return (i & Step) ? kWidth + i : i + Step;
}

template <int Step, bool High, int... I>
AUTOTRAIN_INLINE Vector mix(Vector a, Vector b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, mixed_index<Step, High>(I)...);
#else
  return __builtin_shuffle(a, b, IntVector{mixed_index<Step, High>(I)...});
#endif
}

template <int Step>
AUTOTRAIN_INLINE void transpose_stage(Vector* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) {
    if (i & Step) continue;
    Vector a = rows[i], b = rows[i + Step];
    rows[i] = mix<Step, false>(a, b, std::make_integer_sequence<int, kWidth>{});
    rows[i + Step] = mix<Step, true>(a, b, std::make_integer_sequence<int, kWidth>{});
  }
}

#endif

AUTOTRAIN_INLINE void transpose(Vector* rows) {
#if defined(__AVX512F__)
  transpose_by_lanes(rows);
#else
  transpose_stage<1>(rows);
  transpose_stage<2>(rows);
  if constexpr (kWidth > 4) transpose_stage<4>(rows);
#endif
}

// Sums of kWidth rows of `count` numbers each (a multiple of kBlock), in kBlock parts that are added one after
// another: the same for every width.
AUTOTRAIN_INLINE Vector sums_of_rows(const float* rows, long stride, int count) {
  Vector sum = {};
  for (int part = 0; part < kBlock; part += kWidth) {
    Vector parts[kWidth];
    for (int r = 0; r < kWidth; r++) {
      parts[r] = Vector{};
      for (int i = part; i < count; i += kBlock) parts[r] += load(rows + r * stride + i);
    }
    transpose(parts);
    for (int r = 0; r < kWidth; r++) sum += parts[r];
  }
  return sum;
}

// The sum of `count` numbers, a multiple of kBlock, in kBlock parts.
inline double sum_in_parts(const float* values, int count) {
  float parts[kBlock] = {};
  for (int i = 0; i < count; i += kBlock)
    for (int part = 0; part < kBlock; part++) parts[part] += values[i + part];
  double sum = 0;
  for (int part = 0; part < kBlock; part++) sum += parts[part];
  return sum;
}

inline bool all_finite(const float* values, int count) {
  int bad = 0;
  for (int i = 0; i < count; i++) bad |= !(values[i] - values[i] == 0);
  return !bad;
}

}  // namespace autotrain
