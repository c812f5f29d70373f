// SPDX-License-Identifier: Apache-2.0
#include "control/server.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "base/file.h"
#include "control/message.h"

namespace umwelt::control {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxConnections = 64;
constexpr std::chrono::milliseconds kIdle{500};           // may be closed when there are so many
constexpr std::chrono::milliseconds kReplyPatience{500};  // at the end

nlohmann::json error_reply(const Error& error) {
  return {{"ok", false}, {"errno", error.code}, {"error", error.text}};
}

bool may_connect(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
  return peer.uid == 0 || peer.uid == ::geteuid();
}

// The edge where the exceptions of libraries end: one reply for every request.
nlohmann::json answer(const Server::Handler& handler, const nlohmann::json& request) {
  try {
    Result<nlohmann::json> reply = handler(request);
    if (!reply) return error_reply(reply.error());
    (*reply)["ok"] = true;
    return std::move(*reply);
  } catch (const std::bad_alloc&) {
    return error_reply({ENOMEM, "handle the request"});
  } catch (const std::exception& exception) {
    return error_reply({EINVAL, exception.what()});
  }
}

// Until the peer closes, breaks the connection or stops reading. `asks` is told when a request is
// there and when it is answered.
void serve(int fd, const Server::Handler& handler, const std::function<void(bool)>& asks) {
  for (;; asks(false)) {
    Result<std::optional<nlohmann::json>> request = receive_message(fd);
    nlohmann::json reply;
    if (request && !*request) return;
    asks(true);
    if (request)
      reply = answer(handler, **request);
    else if (request.error().code == EMSGSIZE || request.error().code == EBADMSG)
      reply = error_reply(request.error());
    else
      return;
    Result<void> sent = send_message(fd, reply);
    if (!sent && (sent.error().code == EMSGSIZE || sent.error().code == EINVAL))
      sent = send_message(fd, error_reply(sent.error()));
    if (!sent) return;
  }
}

}  // namespace

// One thread a connection: a handler may wait for the kernel (page cache invalidation), which must
// not hold up the others.
struct Server::Impl {
  Handler handler;
  timeval send_timeout;
  Listener listener;
  UniqueFd stop;  // an eventfd
  std::thread acceptor;
  std::mutex mutex;
  std::condition_variable idle;
  // When each was last asked something: open descriptors, each owned by its thread. nullopt: is
  // being asked.
  std::map<int, std::optional<Clock::time_point>> connections;
  bool stopping = false;

  void accept_loop();
  void wait_for_room();
  void start_connection(UniqueFd fd);
};

// Whoever connects meanwhile waits in the backlog. A client connects again where its connection was
// closed because it did not use it.
void Server::Impl::wait_for_room() {
  std::unique_lock lock(mutex);
  while (connections.size() >= kMaxConnections && !stopping) {
    std::pair<Clock::time_point, int> oldest{Clock::time_point::max(), -1};
    for (const auto& [fd, since] : connections)
      if (since) oldest = std::min(oldest, std::pair(*since, fd));
    if (oldest.second >= 0 && Clock::now() - oldest.first > kIdle)
      ::shutdown(oldest.second, SHUT_RD);
    idle.wait_for(lock, std::chrono::milliseconds(20));
  }
}

void Server::Impl::accept_loop() {
  for (;; wait_for_room()) {
    pollfd entries[] = {{listener.socket.get(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
    ::poll(entries, 2, -1);
    const int fd = ::accept4(listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC);
    const int code = errno;
    {
      std::lock_guard guard(mutex);
      if (stopping) {
        if (fd >= 0) ::close(fd);
        return;
      }
    }
    if (fd >= 0)
      start_connection(UniqueFd(fd));
    else if (code == EMFILE || code == ENFILE || code == ENOMEM || code == ENOBUFS)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the peer waits in the backlog
  }
}

void Server::Impl::start_connection(UniqueFd fd) {
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof send_timeout);
  if (!may_connect(fd.get())) {
    (void)send_message(fd.get(), error_reply({EPERM, "only root may use the control socket"}));
    return;
  }
  grow_buffers(fd.get());
  std::lock_guard guard(mutex);
  const int number = fd.get();
  connections[number] = Clock::now();
  try {
    std::thread([this, connection = std::move(fd)]() mutable {
      serve(connection.get(), handler, [&](bool asked) {
        std::lock_guard change(mutex);
        connections[connection.get()] = asked ? std::nullopt : std::optional(Clock::now());
      });
      std::lock_guard done(mutex);
      connections.erase(connection.get());
      connection.reset();
      idle.notify_all();
    }).detach();
  } catch (const std::system_error&) {  // no thread to be had: the peer sees the connection close
    connections.erase(number);
  }
}

Server::Server() : impl_(std::make_unique<Impl>()) {}

Result<Listener> Listener::bind(const std::string& socket_path) {
  const sockaddr_un address = UMWELT_TRY(socket_address(socket_path));
  Listener listener;
  listener.lock =
      UMWELT_TRY(open_at(AT_FDCWD, socket_path + ".lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::flock(listener.lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return fail(EADDRINUSE, "another daemon serves " + socket_path);
    return fail_errno("lock " + socket_path + ".lock");
  }
  if (::unlink(socket_path.c_str()) != 0 && errno != ENOENT)
    return fail_errno("unlink " + socket_path);
  // Non-blocking: a peer may be gone, or another process's, when it is to be accepted.
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return fail_errno("socket");
  // The socket file takes its mode from the descriptor: it never exists with another one.
  if (::fchmod(socket.get(), 0600) != 0) return fail_errno("chmod " + socket_path);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return fail_errno("bind " + socket_path);
  if (::listen(socket.get(), SOMAXCONN) != 0) return fail_errno("listen " + socket_path);
  listener.socket = std::move(socket);
  return listener;
}

bool Listener::is_at(int socket, const std::string& socket_path) {
  sockaddr_un bound{};
  socklen_t size = sizeof(bound) - 1;  // the path ends with a zero
  struct stat file {};
  return ::getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size) == 0 &&
         socket_path == bound.sun_path && ::lstat(socket_path.c_str(), &file) == 0 &&
         S_ISSOCK(file.st_mode);
}

Result<std::unique_ptr<Server>> Server::start(Listener listener, Handler handler,
                                              std::chrono::milliseconds send_timeout) {
  std::unique_ptr<Server> server(new Server());
  Impl& impl = *server->impl_;
  impl.handler = std::move(handler);
  impl.send_timeout = timeval_of(send_timeout);
  impl.listener = std::move(listener);
  impl.stop.reset(::eventfd(0, EFD_CLOEXEC));
  if (!impl.stop) return fail_errno("eventfd");
  impl.acceptor = std::thread([&impl] { impl.accept_loop(); });
  return server;
}

Server::~Server() {
  Impl& impl = *impl_;
  if (!impl.acceptor.joinable()) return;
  {
    std::lock_guard guard(impl.mutex);
    impl.stopping = true;
  }
  ::eventfd_write(impl.stop.get(), 1);
  impl.acceptor.join();
  std::unique_lock lock(impl.mutex);
  const auto all_gone = [&] { return impl.connections.empty(); };
  for (const int how : {SHUT_RD, SHUT_RDWR}) {
    for (const auto& [fd, since] : impl.connections) ::shutdown(fd, how);
    if (impl.idle.wait_for(lock, kReplyPatience, all_gone)) return;
  }
  impl.idle.wait(lock, all_gone);
}

}  // namespace umwelt::control
