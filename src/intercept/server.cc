// SPDX-License-Identifier: Apache-2.0
#include "intercept/server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "base/parse.h"
#include "intercept/listener.h"
#include "intercept/paths.h"
#include "intercept/process_state.h"

namespace umwelt::intercept {
namespace {

using namespace std::chrono_literals;
using ContainerPtr = Server::ContainerPtr;

constexpr auto kPatience = 2s;        // with a runtime that sends its message in pieces
constexpr auto kStopPatience = 1s;    // with threads that the kernel does not give back
constexpr auto kEndPatience = 100ms;  // the same, where others wait for us
constexpr auto kAskInterval = 10ms;   // see Listener::ask_to_stop()
constexpr std::uint64_t kSocketEvent = 0, kWakeEvent = 1, kFirstListenerEvent = 2;
constexpr const char* kSocketName = "seccomp-socket";

bool may_connect(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         (peer.uid == 0 || peer.uid == ::geteuid());
}

ino_t inode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

void join_or_abandon(Listener& listener) {
  if (listener.ended())
    listener.join();
  else
    listener.abandon();
}

}  // namespace

struct Server::Impl {
  struct Served {
    std::shared_ptr<Listener> listener;
    std::string suffix;  // "ID/1", of the kept names
    ino_t notice;        // its memory's, which no other listener has
  };

  explicit Impl(container::Registry& containers) : registry(containers) {}

  container::Registry& registry;
  Keeping keeping;
  Answers::Cover cover;
  std::string runtime;
  UniqueFd socket, epoll, wake;
  std::thread thread;

  std::mutex mutex;  // guards everything below
  bool stopping = false;
  std::uint64_t next_number = 1, next_event = kFirstListenerEvent;
  std::map<std::uint64_t, Served> served;  // by epoll event
  // One for each container, as long as a listener of it is served.
  std::map<const container::Container*, std::weak_ptr<Answers>> answers;

  Result<void> watch(int fd, std::uint32_t events, std::uint64_t event) const;
  void adopt_kept(std::map<std::string, UniqueFd>& kept);
  Result<void> add(const ContainerPtr& container, const std::string& suffix, UniqueFd listener,
                   UniqueFd notice);
  Result<void> take(int connection);
  bool serves(const UniqueFd& notice);
  void drop(const std::string& suffix) const;
  Result<ContainerPtr> container_of(const ProcessState& state) const;
  std::shared_ptr<Answers> answers_of(const ContainerPtr& container);
  void accept_one();
  void listener_ended(std::uint64_t event);
  void run();
  void stop_listeners();
};

Result<void> Server::Impl::watch(int fd, std::uint32_t events, std::uint64_t event) const {
  epoll_event entry{};
  entry.events = events;
  entry.data.u64 = event;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &entry) != 0) return fail_errno("epoll_ctl");
  return {};
}

std::shared_ptr<Answers> Server::Impl::answers_of(const ContainerPtr& container) {
  const std::lock_guard lock(mutex);
  std::erase_if(answers, [](const auto& entry) { return entry.second.expired(); });
  auto& known = answers[container.get()];
  std::shared_ptr<Answers> result = known.lock();
  if (!result) known = result = std::make_shared<Answers>(container, cover);
  return result;
}

// What the metadata says, or the runtime's id, unless that is another container of the same name;
// else whoever the process is in.
Result<ContainerPtr> Server::Impl::container_of(const ProcessState& state) const {
  for (const std::string& id : {state.metadata, state.container_id})
    if (container::valid_id(id))
      if (ContainerPtr found = registry.find(id);
          found && (state.init_pid <= 0 || found->record().init_pid == state.init_pid))
        return found;
  const pid_t pid = state.pid != 0 ? state.pid : state.init_pid;
  if (pid <= 0) return fail(ENOENT, "container \"" + state.metadata + "\"");
  return registry.by_caller(pid);
}

// Who names a container that nobody registered has the host's files, and the kernel's answers.
Result<void> Server::Impl::add(const ContainerPtr& container, const std::string& suffix,
                               UniqueFd listener, UniqueFd notice) {
  Notice memory = UMWELT_TRY(Notice::map(notice.get()));
  const ino_t memory_inode = inode_of(notice.get());
  Listener::Find find;
  if (container) {
    find = [answers = answers_of(container)](pid_t) -> Result<std::shared_ptr<Answers>> {
      return answers;
    };
  } else {
    const bool named = suffix.substr(0, suffix.rfind('/')) != kNobody;
    find = [this, named](pid_t caller) -> Result<std::shared_ptr<Answers>> {
      const ContainerPtr found = UMWELT_TRY(registry.by_caller(caller));
      if (named && found->record().number == 0) return fail(ENOENT, "not registered");
      return answers_of(found);
    };
  }
  const int fd = listener.get();
  auto made = std::make_shared<Listener>("listener/" + suffix, std::move(listener),
                                         std::move(memory), std::move(find));
  const std::lock_guard lock(mutex);
  if (stopping) return fail(ESHUTDOWN, "the daemon stops");
  UMWELT_CHECK(Listener::start(made));
  const std::uint64_t event = next_event++;
  served[event] = {made, suffix, memory_inode};
  return watch(fd, 0, event);  // EPOLLHUP
}

// Names: "listener/ID/1" and, of the same, "notice/ID/1".
void Server::Impl::adopt_kept(std::map<std::string, UniqueFd>& kept) {
  for (auto& [name, fd] : kept) {
    if (!name.starts_with("listener/")) continue;
    const std::string suffix = name.substr(std::strlen("listener/"));
    const std::size_t slash = suffix.rfind('/');
    const auto notice = kept.find("notice/" + suffix);
    if (slash == std::string::npos || notice == kept.end()) continue;
    if (const auto number = parse_u64(std::string_view(suffix).substr(slash + 1)))
      next_number = std::max(next_number, *number + 1);
    const ContainerPtr container = registry.find(suffix.substr(0, slash));
    const auto added = add(container, suffix, std::move(fd), std::move(notice->second));
    if (!added) spdlog::error("{}: {}", name, added.error().message());
  }
}

void Server::Impl::drop(const std::string& suffix) const {
  keeping.drop("listener/" + suffix);
  keeping.drop("notice/" + suffix);
}

bool Server::Impl::serves(const UniqueFd& notice) {
  const std::lock_guard lock(mutex);
  return std::any_of(
      served.begin(), served.end(),
      [inode = inode_of(notice.get())](const auto& it) { return it.second.notice == inode; });
}

Result<void> Server::Impl::take(int connection) {
  Handed handed = UMWELT_TRY(receive_handed(connection, kPatience));
  // A fallback does not know what was kept.
  if (handed.notice && serves(handed.notice)) return {};
  // One that nobody registered is found by who calls, if by nothing else.
  const auto found = container_of(handed.state);
  const bool registered = found && (*found)->record().number != 0;
  const std::string id = registered ? (*found)->record().id : named_container(handed.state);
  const ContainerPtr container = registered || (found && id == kNobody) ? *found : nullptr;
  // Our launcher sends one, and has a fallback of its own.
  const bool needs_guard = !handed.notice;
  if (needs_guard) handed.notice = UMWELT_TRY(Notice::create());
  std::string suffix;
  {
    const std::lock_guard lock(mutex);
    suffix = fmt::format("{}/{}", id, next_number++);
  }
  UMWELT_CHECK(keeping.keep("notice/" + suffix, handed.notice.get()));
  if (auto kept = keeping.keep("listener/" + suffix, handed.listener.get()); !kept) {
    keeping.drop("notice/" + suffix);
    return kept;
  }
  if (needs_guard) {
    if (const auto asked = keeping.guard(suffix); !asked)
      spdlog::error("seccomp listener: {}", asked.error().message());
  }
  auto added = add(container, suffix, std::move(handed.listener), std::move(handed.notice));
  if (!added && added.error().code != ESHUTDOWN) drop(suffix);  // else the next server's
  return added;
}

void Server::Impl::accept_one() {
  const UniqueFd connection(::accept4(socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection) return;
  if (!may_connect(connection.get())) return;
  const auto taken = take(connection.get());
  if (!taken && taken.error().code == ENODATA) return;
  if (!taken) spdlog::warn("seccomp listener: {}", taken.error().message());
  acknowledge(connection.get(), taken);
}

// Nobody is left who could call. Before Linux 6.11 a thread that waits does not notice; one that is
// stuck in a dead caller's memory is left to the kernel.
void Server::Impl::listener_ended(std::uint64_t event) {
  std::shared_ptr<Listener> listener;
  std::string suffix;
  {
    const std::lock_guard lock(mutex);
    const auto found = served.find(event);
    if (found == served.end()) return;
    listener = std::move(found->second.listener);
    suffix = std::move(found->second.suffix);
    served.erase(found);
  }
  ::epoll_ctl(epoll.get(), EPOLL_CTL_DEL, listener->fd(), nullptr);
  const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
  while (!listener->ended() && std::chrono::steady_clock::now() < deadline) {
    listener->ask_to_stop();
    std::this_thread::sleep_for(1ms);
  }
  join_or_abandon(*listener);
  drop(suffix);
}

void Server::Impl::run() {
  std::array<epoll_event, 16> events;
  for (;;) {
    const int count = ::epoll_wait(epoll.get(), events.data(), events.size(), -1);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count; ++i) {
      const std::uint64_t event = events[static_cast<std::size_t>(i)].data.u64;
      if (event == kWakeEvent) return;
      try {
        if (event == kSocketEvent)
          accept_one();
        else
          listener_ended(event);
      } catch (const std::exception& exception) {
        spdlog::error("seccomp listener: {}", exception.what());
      }
    }
  }
}

void Server::Impl::stop_listeners() {
  std::map<std::uint64_t, Served> left;
  {
    const std::lock_guard lock(mutex);
    stopping = true;
    left.swap(served);
  }
  const auto deadline = std::chrono::steady_clock::now() + kStopPatience;
  const auto running = [&] {
    return std::any_of(left.begin(), left.end(),
                       [](const auto& entry) { return !entry.second.listener->ended(); });
  };
  while (running() && std::chrono::steady_clock::now() < deadline) {
    for (const auto& [event, entry] : left) entry.listener->ask_to_stop();
    std::this_thread::sleep_for(kAskInterval);
  }
  for (const auto& [event, entry] : left) join_or_abandon(*entry.listener);
}

Server::Server() = default;

Result<std::unique_ptr<Server>> Server::start(const std::string& runtime,
                                              container::Registry& registry, Keeping keeping,
                                              Answers::Cover cover,
                                              std::map<std::string, UniqueFd> kept) {
  prepare_signal();
  std::unique_ptr<Server> server(new Server());
  server->impl_ = std::make_unique<Impl>(registry);
  Impl& impl = *server->impl_;
  impl.keeping = std::move(keeping);
  impl.cover = std::move(cover);
  impl.runtime = runtime;
  impl.epoll = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  impl.wake = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!impl.epoll || !impl.wake) return fail_errno("epoll_create");
  if (const auto socket = kept.find(kSocketName); socket != kept.end())
    impl.socket = std::move(socket->second);
  else
    impl.socket = UMWELT_TRY(listen_on(socket_path(runtime)));
  UMWELT_CHECK(impl.keeping.keep(kSocketName, impl.socket.get()));
  UMWELT_CHECK(impl.watch(impl.socket.get(), EPOLLIN, kSocketEvent));
  UMWELT_CHECK(impl.watch(impl.wake.get(), EPOLLIN, kWakeEvent));
  impl.adopt_kept(kept);
  impl.thread = std::thread([&impl] { impl.run(); });
  return server;
}

Server::~Server() {
  if (!impl_->thread.joinable()) {
    impl_->stop_listeners();
    return;
  }
  const std::uint64_t one = 1;
  (void)!::write(impl_->wake.get(), &one, sizeof one);
  impl_->thread.join();
  impl_->stop_listeners();
}

void Server::container_changed(const ContainerPtr& container) {
  std::shared_ptr<Answers> answers;
  {
    const std::lock_guard lock(impl_->mutex);
    const auto found = impl_->answers.find(container.get());
    if (found != impl_->answers.end()) answers = found->second.lock();
  }
  if (answers) answers->container_changed();
}

}  // namespace umwelt::intercept
