// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "base/result.h"

namespace umwelt {

// Does what may have to wait for something that a container holds, and can't be killed meanwhile,
// in a thread of its own, one thing at a time. Who asks waits for no longer than `patience` after
// the thing that is being done was begun. Thread-safe.
class Apart {
 public:
  using Clock = std::chrono::steady_clock;

  // `work` must own what it uses: nobody may be there any more when it goes on. ETIMEDOUT: it has
  // not ended, or one before it. EAGAIN: there is no thread for it.
  template <class T>
  Result<T> run(Clock::duration patience, std::function<Result<T>()> work);

  bool busy() const {
    const std::lock_guard lock(state_->mutex);
    return state_->busy;
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable ended;
    bool busy = false;
    Clock::time_point begun;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

template <class T>
Result<T> Apart::run(Clock::duration patience, std::function<Result<T>()> work) {
  const std::shared_ptr<State> state = state_;
  const auto not_busy = [&] { return !state->busy; };
  std::unique_lock lock(state->mutex);
  if (!state->ended.wait_until(lock, state->begun + patience, not_busy))
    return fail(ETIMEDOUT, "wait for what a container holds");
  state->busy = true;
  state->begun = Clock::now();
  const auto result = std::make_shared<std::optional<Result<T>>>();
  try {
    std::thread([state, result, work = std::move(work)] {
      Result<T> done = [&]() -> Result<T> {
        try {
          return work();
        } catch (const std::exception& error) {
          return fail(EIO, error.what());
        }
      }();
      const std::lock_guard end(state->mutex);
      *result = std::move(done);
      state->busy = false;
      state->ended.notify_all();
    }).detach();
  } catch (const std::system_error& error) {
    state->busy = false;
    return fail(EAGAIN, "start a thread");
  }
  if (!state->ended.wait_until(lock, state->begun + patience, [&] { return result->has_value(); }))
    return fail(ETIMEDOUT, "wait for what a container holds");
  return std::move(**result);
}

}  // namespace umwelt
