#pragma once
#include <cstdlib>

template <typename T>
struct Buffer {  // grows on demand, is aligned to cache lines, and is not initialised
  T* data = nullptr;
  size_t size = 0;
  T* need(size_t count) {
    if (count > size) {
      free(data);
      size = (count + 63) / 64 * 64;
      data = static_cast<T*>(aligned_alloc(64, size * sizeof(T)));
      if (!data) abort();
    }
    return data;
  }
  ~Buffer() { free(data); }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

constexpr int LINE = 64;  // bytes of a cache line

// A range of memory that is prefetched some lines at a time while something else is computed.
struct Ahead {
  const char* at = nullptr;
  int lines = 0;  // lines per step
  void ask() {
    for (int i = 0; i < lines; ++i, at += LINE) __builtin_prefetch(at, 0, 2);  // into the second-level cache
  }
};
