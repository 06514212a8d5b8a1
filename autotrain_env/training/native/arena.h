// Room to work in, kept by each thread from call to call: new memory costs page faults.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace autotrain {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() {
    guard(base_, size_, false);
    std::free(base_);
  }

  // Takes everything back, and makes sure of room for `bytes`, all of them 0.
  void clear(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    guard(base_, size_, false);
    if (bytes > size_) {
      std::free(base_);
      base_ = nullptr;
      size_ = 0;
      base_ = (char*)std::aligned_alloc(kAlignment, bytes);
      if (!base_) throw std::bad_alloc();
      size_ = bytes;
    }
    if (bytes) std::memset(base_, 0, bytes);
    used_ = 0;
  }

  // Room for `count` numbers of four bytes, on a cache line of its own.
  float* take(size_t count) {
    float* room = (float*)(base_ + used_);
    used_ += bytes_for(count);
    guard(base_ + used_ - kGap, kGap, true);
    return room;
  }

  static size_t bytes_for(size_t count) {
    return (count * 4 + kAlignment - 1) / kAlignment * kAlignment + kGap;
  }

 private:
  static constexpr size_t kAlignment = 64;

#if defined(__SANITIZE_ADDRESS__)  // what lies between arrays may not be touched
  static constexpr size_t kGap = 64;
  static void guard(char* from, size_t bytes, bool on) {
    if (on)
      ASAN_POISON_MEMORY_REGION(from, bytes);
    else if (from)
      ASAN_UNPOISON_MEMORY_REGION(from, bytes);
  }
#else
  static constexpr size_t kGap = 0;
  static void guard(char*, size_t, bool) {}
#endif

  char* base_ = nullptr;
  size_t size_ = 0, used_ = 0;
};

// Lays out arrays twice: once to see how much room they need, once to place them.
// `place(take)` calls take(count) for each array, in the same order both times.
template <class Place>
void lay_out(Arena& arena, Place&& place) {
  size_t bytes = 0;
  place([&](size_t count) {
    bytes += Arena::bytes_for(count);
    return (float*)nullptr;
  });
  arena.clear(bytes);
  place([&](size_t count) { return arena.take(count); });
}

}  // namespace autotrain
