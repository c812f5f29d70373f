// SPDX-License-Identifier: Apache-2.0
#include "intercept/listener.h"

#include <pthread.h>
#include <sys/ioctl.h>

#include <csignal>
#include <system_error>

#include "base/log.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)  // Linux 6.6
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif

namespace umwelt::intercept {
namespace {

int wake_signal() { return SIGRTMIN; }

}  // namespace

void prepare_signal() {
  struct sigaction action {};
  action.sa_handler = [](int) {};  // without SA_RESTART: an ioctl that waits fails with EINTR
  ::sigaction(wake_signal(), &action, nullptr);
}

Listener::Listener(std::string name, UniqueFd fd, Notice notice, Find find)
    : name_(std::move(name)),
      fd_(std::move(fd)),
      notice_(std::move(notice)),
      find_(std::move(find)) {
  // Caller and thread run in turns, so they are best on one CPU.
  (void)::ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
}

Result<void> Listener::start(const std::shared_ptr<Listener>& listener) {
  try {
    listener->thread_ = std::thread([listener] { listener->serve(); });
  } catch (const std::system_error& error) {
    return fail(error.code().value(), "start a thread");
  }
  return {};
}

void Listener::ask_to_stop() {
  stopping_.store(true, std::memory_order_release);
  if (!ended()) ::pthread_kill(thread_.native_handle(), wake_signal());
}

void Listener::serve() {
  if (notice_.notification().id != 0) answer();  // somebody else received it and was killed
  while (!stopping_.load(std::memory_order_acquire)) {
    if (const auto received = notice_.receive(fd_.get())) {
      answer();
    } else if (received.error().code != EINTR && is_abandoned(fd_.get())) {
      break;
    } else if (received.error().code != EINTR && received.error().code != ENOENT) {
      spdlog::error("{}: {}", name_, received.error().message());
      break;
    }
  }
  ended_.store(true, std::memory_order_release);
}

void Listener::answer() {
  const seccomp_notif& notification = notice_.notification();
  const Reply reply = reply_to(notification);
  seccomp_notif_resp response{};
  response.id = notification.id;
  if (reply.proceed)
    response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  else if (reply.error != 0)
    response.error = -reply.error;
  else
    response.val = reply.value;
  if (const auto sent = notice_.answer(fd_.get(), response); !sent)
    spdlog::error("{}: {}", name_, sent.error().message());
}

// The edge where exceptions end. A call that can't be answered for lack of a container is the
// kernel's own to answer.
Reply Listener::reply_to(const seccomp_notif& notification) {
  const Reply proceed{0, 0, true};
  try {
    const auto request = decode(notification);
    if (!request) return proceed;
    const auto answers = find_(request->caller);
    if (!answers) return proceed;
    return (*answers)->answer(*request, [&] { return is_waiting(fd_.get(), request->id); });
  } catch (const std::exception& exception) {
    spdlog::error("{}: {}", name_, exception.what());
    return proceed;
  }
}

}  // namespace umwelt::intercept
