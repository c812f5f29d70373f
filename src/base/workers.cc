// SPDX-License-Identifier: Apache-2.0
#include "base/workers.h"

#include <sched.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace umwelt {
namespace {

// Longer than what is done every second is apart.
constexpr std::chrono::seconds kPatience{2};
constexpr std::size_t kMostIdle = 4;

struct Worker {
  std::condition_variable given;
  std::function<void()> work;
};

struct Pool {
  std::mutex mutex;
  std::vector<std::shared_ptr<Worker>> idle;
};

// Never destroyed: a worker may still be there when the process ends.
Pool& the_pool() {
  static Pool* const pool = new Pool;
  return *pool;
}

// A thread starts on the CPUs of the one that makes it, which may be bound to those of a reader.
void run_anywhere() {
  cpu_set_t cpus;
  if (::sched_getaffinity(::getpid(), sizeof cpus, &cpus) == 0)
    (void)::sched_setaffinity(0, sizeof cpus, &cpus);
}

void serve(std::function<void()> work) {
  run_anywhere();
  Pool& pool = the_pool();
  const auto self = std::make_shared<Worker>();
  for (;;) {
    work();
    work = nullptr;  // and what it owns
    std::unique_lock lock(pool.mutex);
    if (pool.idle.size() >= kMostIdle) return;
    pool.idle.push_back(self);
    if (!self->given.wait_for(lock, kPatience, [&] { return self->work != nullptr; })) {
      std::erase(pool.idle, self);
      return;
    }
    work = std::exchange(self->work, nullptr);
  }
}

}  // namespace

void run_in_worker(std::function<void()> work) {
  Pool& pool = the_pool();
  std::shared_ptr<Worker> last;  // the others come to the end of their patience
  {
    const std::lock_guard lock(pool.mutex);
    if (!pool.idle.empty()) {
      last = std::move(pool.idle.back());
      pool.idle.pop_back();
      last->work = std::move(work);
    }
  }
  // It would wait for the mutex.
  if (last)
    last->given.notify_one();
  else
    std::thread(serve, std::move(work)).detach();
}

}  // namespace umwelt
