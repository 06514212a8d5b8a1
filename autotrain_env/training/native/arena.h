// Room to work in, kept by each thread from call to call: new memory costs page faults.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>

namespace autotrain {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { std::free(base_); }

  // Takes everything back, and makes sure of room for `bytes`, all of them 0.
  void clear(size_t bytes) {
    bytes = (bytes + kAlignment - 1) / kAlignment * kAlignment;
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
    return room;
  }

  static size_t bytes_for(size_t count) { return (count * 4 + kAlignment - 1) / kAlignment * kAlignment; }

 private:
  static constexpr size_t kAlignment = 64;
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
