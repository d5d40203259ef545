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
    done_ = 0;
    const uint32_t next = round_ + 1;
    left_ = uint64_t{next} << 32 | static_cast<uint32_t>(count);  // before the round: who sees that one finds tasks
    round_ = next;
    round_.notify_all();
    take();
    // A thread that has begun a task may have lost its core to another process, and then needs this one.
    for (int spin = 0; done_ != count; ++spin) spin < SPINS ? pause() : std::this_thread::yield();
  }

 private:
  // As many threads as asked for, or as the system has. After a fork those of the parent are left to it, as they
  // are: their handles stand for threads that do not exist here, and can be neither joined nor destroyed.
  void start() {
    process_ = getpid();
    workers_ = new std::vector<std::thread>;
    left_ = 0;
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
  // Does tasks until none is left. Whoever comes too late finds none, and nobody has waited for it: only tasks that
  // were begun are waited for. The round in the upper half keeps a late comer from taking what it has not seen.
  void take() {
    uint64_t seen = left_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(seen) != 0) {
      if (!left_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      (*task_)(static_cast<uint32_t>(seen) - 1);
      ++done_;
      seen = left_.load(std::memory_order_acquire);
    }
  }
  void wait_for_work(uint32_t seen) {
    while (true) {
      for (int spin = 0; spin < SPINS && round_ == seen; ++spin) pause();
      round_.wait(seen);
      seen = round_;
      if (stopping_) return;
      take();
    }
  }

  int count_asked_;
  pid_t process_ = 0;
  std::vector<std::thread>* workers_ = nullptr;
  const std::function<void(int64_t)>* task_ = nullptr;
  std::atomic<uint64_t> left_{0};  // round, and how many of its tasks nobody has begun
  std::atomic<int64_t> done_{0};
  std::atomic<uint32_t> round_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace radixpoint
