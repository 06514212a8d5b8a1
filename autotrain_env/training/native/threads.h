// A pool of threads of our own: no second OpenMP runtime beside torch's, and good after a fork.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace autotrain {

class ThreadPool {
 public:
  // Never destroyed: its threads wait until the process ends. A child of a fork has none of them, and begins anew.
  static ThreadPool& instance() {
    static std::once_flag once;
    std::call_once(once, [] {
      pool_() = new ThreadPool;
      pthread_atfork(nullptr, nullptr, [] { pool_() = new ThreadPool; });
    });
    return *pool_();
  }

  // Calls f(i) for i in [0, count), by up to `num_threads` threads, the caller's among them.
  // The first exception that f throws is thrown here, once all threads have stopped.
  template <class F>
  void for_each(int64_t count, int num_threads, const F& f) {
    const int helpers = (int)std::min<int64_t>(num_threads, count) - 1;
    if (helpers < 1) {
      for (int64_t i = 0; i < count; i++) f(i);
      return;
    }
    std::lock_guard<std::mutex> one_call_at_a_time(calls_);
    std::atomic<int64_t> next{0};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&] {
      try {
        for (int64_t i; (i = next.fetch_add(1)) < count;) f(i);
      } catch (...) {
        next = count;
        std::lock_guard<std::mutex> lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    };
    start(helpers, [](const void* context) { (*(const decltype(work)*)context)(); }, &work);
    work();
    finish();
    if (error) std::rethrow_exception(error);
  }

 private:
  static ThreadPool*& pool_() {
    static ThreadPool* pool = nullptr;
    return pool;
  }

  void start(int helpers, void (*function)(const void*), const void* context) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (num_threads_ < helpers) {
      std::thread([this, number = num_threads_] { serve(number); }).detach();
      num_threads_++;
    }
    function_ = function;
    context_ = context;
    helpers_ = running_ = helpers;
    round_++;
    wake_.notify_all();
  }

  void finish() {
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
  }

  void serve(int number) {
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      if (number >= helpers_) continue;
      const auto function = function_;
      const auto context = context_;
      lock.unlock();
      function(context);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex calls_, mutex_;
  std::condition_variable wake_, done_;
  int num_threads_ = 0, helpers_ = 0, running_ = 0;
  uint64_t round_ = 0;
  void (*function_)(const void*) = nullptr;
  const void* context_ = nullptr;
};

}  // namespace autotrain
