// A few threads that share out rows; the rows of a step do not depend on each other.
#pragma once
#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

class Workers {
 public:
  // `threads` counts the caller.
  void start(int threads) {
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

  // Calls `work(first, count)` for parts of 0..total-1 whose sizes are multiples of `unit`, and waits for all.
  void run(int total, int unit, const std::function<void(int, int)>& work) {
    if (total == 0) return;
    const int units = (total + unit - 1) / unit;
    const int parts = std::min(int(pool_.size()) + 1, units);
    if (parts == 1) return work(0, total);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work, total_ = total, unit_ = unit, units_ = units, parts_ = parts, left_ = parts - 1;
      ++round_;
    }
    wake_.notify_all();
    part(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return left_ == 0; });
  }

 private:
  void part(int i) {
    const int first = units_ * i / parts_ * unit_;
    const int last = std::min(units_ * (i + 1) / parts_ * unit_, total_);
    (*work_)(first, last - first);
  }

  void loop(int i) {
    long seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || round_ != seen; });
      if (stop_) return;
      seen = round_;
      if (i >= parts_) continue;
      lock.unlock();
      part(i);
      lock.lock();
      if (--left_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> pool_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int, int)>* work_ = nullptr;
  int total_ = 0, unit_ = 1, units_ = 0, parts_ = 1, left_ = 0;
  long round_ = 0;
  bool stop_ = false;
};
