// Denormal numbers count as 0 while a lane is computed.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace autotrain {

// What is left of the momentum of dead units decays to denormal numbers, which slow a processor down by a hundred
// times. The switch belongs to the thread: it is set while a whole lane is computed, whichever thread that is, and
// is put back, since the caller's own arithmetic must not change.
class FlushDenormals {
 public:
  FlushDenormals() : before_(get()) { set(before_ | kBits); }
  ~FlushDenormals() { set(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  static constexpr uint64_t kBits = 0x8040;  // results and arguments
  static uint64_t get() { return _mm_getcsr(); }
  static void set(uint64_t bits) { _mm_setcsr((uint32_t)bits); }
#else
  static constexpr uint64_t kBits = 1u << 24;
  static uint64_t get() {
    uint64_t bits;
    asm volatile("mrs %0, fpcr" : "=r"(bits));
    return bits;
  }
  static void set(uint64_t bits) { asm volatile("msr fpcr, %0" : : "r"(bits)); }
#endif
  uint64_t before_;
};

}  // namespace autotrain
