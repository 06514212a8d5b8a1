// Random orders, as NumPy draws them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

namespace autotrain {

// NumPy's public interface of a bit generator, as in numpy/random/bitgen.h.
struct BitGenerator {
  void* state;
  uint64_t (*next_uint64)(void*);
  uint32_t (*next_uint32)(void*);
  double (*next_double)(void*);
  uint64_t (*next_raw)(void*);
};

// Shuffles each of `num_rows` rows of `size` items as `Generator.permuted(rows, axis=1)` does, to the last bit, and
// leaves the generator where that would. Numbers are drawn ahead, and one that is too large is overwritten by the
// next: to branch there, which is guessed wrongly one time in four, costs more than all the rest.
inline void permute(BitGenerator* generator, int64_t* items, int64_t num_rows, int64_t size) {
  constexpr int64_t kAhead = 256;
  uint32_t drawn[kAhead];
  for (int64_t* row = items; row < items + num_rows * size; row += size) {
    int64_t last = size - 1;
    while (last > 0) {
      const int64_t wanted = std::min(last, kAhead);
      for (int64_t count = 0; count < wanted;) {
        const auto largest = static_cast<uint32_t>(last - count);
        drawn[count] = generator->next_uint32(generator->state) & (0xffffffffu >> __builtin_clz(largest));
        count += drawn[count] <= largest;
      }
      for (int64_t i = 0; i < wanted; ++i) std::swap(row[last - i], row[drawn[i]]);
      last -= wanted;
    }
  }
}

}  // namespace autotrain
