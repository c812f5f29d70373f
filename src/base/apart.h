// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <utility>

#include "base/result.h"
#include "base/workers.h"

namespace umwelt {

// Does what may have to wait for something that a container holds, and can't be killed meanwhile,
// in another thread, one thing at a time. Who asks waits for no longer than `patience` after
// the thing that is being done was begun. Thread-safe.
class Apart {
 public:
  using Clock = std::chrono::steady_clock;

  // `work` must own what it uses: nobody may be there any more when it goes on. ETIMEDOUT: it has
  // not ended, or one before it. EAGAIN: there is no thread for it.
  template <class T>
  Result<T> run(Clock::duration patience, std::function<Result<T>()> work);

  // For who holds up others while it waits: the more in all that somebody waited for in vain has
  // not ended yet, the less.
  static Clock::duration shared(Clock::duration patience) { return patience / (1 + late_.load()); }

  bool busy() const {
    const std::lock_guard lock(state_->mutex);
    return state_->busy;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable ended;
    bool busy = false;
    bool late = false;
    Clock::time_point begun;
  };
  static Error too_late(State& state) {
    late_ += state.late ? 0 : 1;
    state.late = true;
    return {ETIMEDOUT, "wait for what a container holds"};
  }

  static inline std::atomic<unsigned> late_{0};
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

template <class T>
Result<T> Apart::run(Clock::duration patience, std::function<Result<T>()> work) {
  const std::shared_ptr<State> state = state_;
  const auto not_busy = [&] { return !state->busy; };
  std::unique_lock lock(state->mutex);
  if (!state->ended.wait_until(lock, state->begun + patience, not_busy))
    return fail(too_late(*state));
  const auto result = std::make_shared<std::optional<Result<T>>>();
  state->busy = true;
  state->begun = Clock::now();
  try {
    run_in_worker([state, result, work = std::move(work)] {
      Result<T> done = [&]() -> Result<T> {
        try {
          return work();
        } catch (const std::exception& error) {
          return fail(EIO, error.what());
        }
      }();
      {
        const std::lock_guard end(state->mutex);
        *result = std::move(done);
        state->busy = false;
        late_ -= std::exchange(state->late, false) ? 1 : 0;
      }
      state->ended.notify_all();  // who waits would wait for the mutex
    });
  } catch (const std::exception&) {  // no thread, or no memory for it
    state->busy = false;
    return fail(EAGAIN, "start a thread");
  }
  if (!state->ended.wait_until(lock, state->begun + patience, [&] { return result->has_value(); }))
    return fail(too_late(*state));
  return std::move(**result);
}

}  // namespace umwelt
