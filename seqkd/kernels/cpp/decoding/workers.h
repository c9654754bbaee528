// A few threads that share the rows of a step, which do not depend on each other. If there are too few rows for all threads,
// one thread processes the rows and the others help it with each product.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

class Workers {
 public:
  using Around = std::function<void(const std::function<void()>&)>;

  // `threads` includes the caller. `around` calls its argument on a thread that it has prepared for products.
  void start(int threads, Around around) {
    around_ = std::move(around);
    for (int i = 1; i < threads; ++i) pool_.emplace_back([this, i] { loop(i); });
  }

  ~Workers() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : pool_) thread.join();
  }

  // Calls `work(first, count)` for parts of 0..total-1 whose sizes are multiples of `unit`, and waits for all parts. `effort`
  // is the amount of work: multiplications times the bytes of a number.
  void run(int total, int unit, int64_t effort, const std::function<void(int, int)>& work) {
    if (total == 0) return;
    const int units = (total + unit - 1) / unit, parts = std::min(threads(), units);
    if (2 * parts <= threads() && effort >= WORTH_HELP) return helped(total, work);
    if (parts == 1) return work(0, total);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      parts_ = parts, left_ = parts - 1;
      work_ = &work, total_ = total, unit_ = unit, units_ = units;
      ++round_;
    }
    wake_.notify_all();
    part(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

  // Called within `work` above: calls `piece(first, count)` for parts of 0..total-1, on all threads if the others are idle, and
  // waits for all parts.
  template <typename Piece>
  void share(int total, const Piece& piece) {
    if (!helped_) return piece(0, total);
    const int parts = std::min(total, 2 * threads());  // if a thread is late, others take its second part
    const std::function<void(int)> task = [&](int i) {
      const int first = int(int64_t(total) * i / parts);
      piece(first, int(int64_t(total) * (i + 1) / parts) - first);
    };
    task_ = &task;
    undone_.store(parts, std::memory_order_relaxed);
    const uint64_t turn = (unclaimed_.load(std::memory_order_relaxed) >> 32) + 1;
    unclaimed_.store(turn << 32 | uint64_t(parts), std::memory_order_release);
    while (claim()) {
    }
    while (undone_.load(std::memory_order_acquire)) pause();
  }

  // Whether `share` has threads to share the work with.
  bool shares() const { return helped_; }

 private:
  // Some hundred microseconds of work. Waking helpers and handing them some twenty products takes thirty microseconds.
  static constexpr int64_t WORTH_HELP = 1 << 26;

  int threads() const { return int(pool_.size()) + 1; }

  void part(int i) {
    const int first = units_ * i / parts_ * unit_;
    const int last = std::min(units_ * (i + 1) / parts_ * unit_, total_);
    (*work_)(first, last - first);
  }

  void helped(int total, const std::function<void(int, int)>& work) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      parts_ = 0;
      ++round_;
    }
    helped_ = true;
    wake_.notify_all();
    work(0, total);
    helped_ = false;
  }

  // Helps until there is nothing left to help with. A waiting thread polls for work, because waking it would take longer than
  // most products.
  void help() {
    for (int idle = 0; helped_; ++idle) {
      if (claim()) idle = 0;
      if (idle < 1000)
        pause();
      else
        std::this_thread::yield();
    }
  }

  // Does one of the unclaimed parts. Their count is stored together with the number of the turn, so that no thread mistakes a
  // part for one of an earlier turn. A turn cannot end before its claimed parts are done.
  bool claim() {
    uint64_t seen = unclaimed_.load(std::memory_order_acquire);
    while (uint32_t(seen)) {
      if (!unclaimed_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      (*task_)(int(uint32_t(seen)) - 1);
      undone_.fetch_sub(1, std::memory_order_acq_rel);
      return true;
    }
    return false;
  }

  static void pause() {
#if defined(__x86_64__)
    _mm_pause();
#endif
  }

  void loop(int i) {
    long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      if (parts_ && i >= parts_) continue;
      const bool whole = parts_;
      lock.unlock();
      if (whole)
        part(i);
      else
        around_([this] { help(); });
      lock.lock();
      if (whole && --left_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> pool_;
  Around around_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int, int)>* work_ = nullptr;
  int total_ = 0, unit_ = 1, units_ = 0, parts_ = 1, left_ = 0;  // parts_ is 0 while threads help with products
  long round_ = 0;
  bool stop_ = false;

  std::atomic<bool> helped_{false};
  const std::function<void(int)>* task_ = nullptr;
  std::atomic<uint64_t> unclaimed_{0};  // the high bits hold the number of the turn
  std::atomic<int> undone_{0};
};
