// Threads that wait for work: a loop over independent tasks, each taken by whoever is free.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

namespace radixpoint {

class Threads {
 public:
  explicit Threads(int count) : count_asked_(count) { start(); }
  ~Threads() {
    if (process_ != getpid()) return;  // a fork took none of the threads along: there is nothing to join
    stopping_ = true;
    ++round_;
    round_.notify_all();
    for (auto& worker : *workers_) worker.join();
    delete workers_;
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  // Calls task(i) for each i below `count`, and returns when all are done. Tasks must not throw.
  void run(int64_t count, const std::function<void(int64_t)>& task) {
    if (process_ != getpid()) start();
    if (workers_->empty() || count <= 1) {
      for (int64_t i = 0; i < count; ++i) task(i);
      return;
    }
    task_ = &task;
    count_ = count;
    next_ = 0;
    busy_ = static_cast<int>(workers_->size());
    ++round_;
    round_.notify_all();
    take();
    while (busy_ != 0) pause();
  }

 private:
  // As many threads as asked for, or as the system has. After a fork those of the parent are left to it, as they
  // are: their handles stand for threads that do not exist here, and can be neither joined nor destroyed.
  void start() {
    process_ = getpid();
    workers_ = new std::vector<std::thread>;
    busy_ = 0;
    try {
      for (int i = 1; i < count_asked_; ++i) workers_->emplace_back([this, seen = round_.load()] { wait_for_work(seen); });
    } catch (const std::exception&) {
      // results do not depend on how many there are
    }
  }

  static constexpr int SPINS = 20000;  // some tens of microseconds: an operation follows the other closely

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }
  void take() {
    for (int64_t i = next_++; i < count_; i = next_++) (*task_)(i);
  }
  void wait_for_work(uint32_t seen) {
    while (true) {
      for (int spin = 0; spin < SPINS && round_ == seen; ++spin) pause();
      round_.wait(seen);
      seen = round_;
      if (stopping_) return;
      take();
      --busy_;
    }
  }

  int count_asked_;
  pid_t process_ = 0;
  std::vector<std::thread>* workers_ = nullptr;
  const std::function<void(int64_t)>* task_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<int> busy_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace radixpoint
