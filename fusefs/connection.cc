// SPDX-License-Identifier: Apache-2.0
#include "fusefs/connection.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "fusefs/config_files.h"

namespace umwelt::fusefs {
namespace {

static_assert(Journal::kSlotBytes >= kMaxWrite + 0x1000);

// Interrupts the read(2) of a thread that is to stop; nothing else sends it.
constexpr int kWakeSignal = SIGUSR1;

void log_notify(int result, const char* what) {
  // ENOENT: the kernel does not know it. ENODEV, ENOTCONN: unmounted meanwhile.
  if (result != 0 && result != -ENOENT && result != -ENODEV && result != -ENOTCONN)
    spdlog::error("invalidate a {}: {}", what, std::strerror(-result));
}

const fuse_in_header& header(const char* request) {
  return *reinterpret_cast<const fuse_in_header*>(request);
}

struct SessionDeleter {
  void operator()(fuse_session* session) const { ::fuse_session_destroy(session); }
};
using Session = std::unique_ptr<fuse_session, SessionDeleter>;

Result<Session> make_session(UniqueFd fd, std::string init_request,
                             const fuse_lowlevel_ops& operations, void* userdata) {
  std::string program = "umweltd";
  char* arguments[] = {program.data(), nullptr};
  fuse_args args{};
  args.argc = 1;
  args.argv = arguments;
  Session session(::fuse_session_new(&args, &operations, sizeof(operations), userdata));
  ::fuse_opt_free_args(&args);  // the copy that libfuse made of it
  if (!session) return fail(ENOMEM, "make a FUSE session");
  if (::fuse_session_mount(session.get(), fmt::format("/dev/fd/{}", fd.get()).c_str()) != 0)
    return fail(EBADF, "take over the FUSE descriptor");
  fd.release();
  fuse_buf init{};
  init.mem = init_request.data();
  init.size = init_request.size();
  ::fuse_session_process_buf(session.get(), &init);
  if (::fuse_session_exited(session.get())) return fail(EPROTO, "initialise the FUSE connection");
  return session;
}

}  // namespace

struct Connection::Worker {
  Worker(Connection& owner, Journal::Owner number, Journal::Slot first)
      : connection(owner), me(number), slot(std::move(first)) {}

  Connection& connection;
  const Journal::Owner me;
  Session session;
  Journal::Slot slot;
  std::atomic<std::uint64_t> busy_since_ns{0};  // 0: waits for a request
  std::atomic<bool> stopping{false};
  std::atomic<bool> done{false};
  std::thread thread;

  // Of the thread that calls it.
  static thread_local Worker* current;
  static thread_local std::uint64_t current_request;

  void process(char* memory, std::size_t size) {
    current_request = header(memory).unique;
    fuse_buf request{};
    request.mem = memory;
    request.size = size;
    ::fuse_session_process_buf(session.get(), &request);
  }

  void run() {
    current = this;
    connection.placement_.add(::gettid());
    const int fd = ::fuse_session_fd(session.get());
    while (!stopping) {
      slot.clear();
      const ssize_t size = ::read(fd, slot.memory(), Journal::kSlotBytes);
      if (size < 0) {
        // ENOENT: the request was interrupted before it got here.
        if (errno == EINTR || errno == EAGAIN || errno == ENOENT) continue;
        if (!stopping) connection.settings_.on_lost();
        break;
      }
      const std::uint64_t now_ns = monotonic_ns();
      busy_since_ns.store(now_ns, std::memory_order_relaxed);
      connection.placement_.on_request(static_cast<pid_t>(header(slot.memory()).pid), now_ns);
      process(slot.memory(), static_cast<std::size_t>(size));
      busy_since_ns.store(0, std::memory_order_relaxed);
    }
    slot.clear();
    done = true;
  }
};

thread_local Connection::Worker* Connection::Worker::current = nullptr;
thread_local std::uint64_t Connection::Worker::current_request = 0;

Result<Channel> mount_channel(const std::string& path, unsigned threads,
                              const ConnectionKind& kind) {
  Channel channel;
  channel.fds.push_back(UMWELT_TRY(open_at(AT_FDCWD, "/dev/fuse", O_RDWR)));
  const int first = channel.fds[0].get();
  const std::string options = fmt::format(
      "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read={}",
      first, kind.max_read);
  unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (kind.read_only) flags |= MS_RDONLY;
  if (::mount("umwelt", path.c_str(), "fuse.umwelt", flags, options.c_str()) != 0)
    return fail_errno("mount FUSE at " + path);
  const auto prepare = [&]() -> Result<void> {
    channel.init_request.resize(FUSE_MIN_READ_BUFFER);
    const ssize_t n = ::read(first, channel.init_request.data(), channel.init_request.size());
    if (n < 0) return fail_errno("read FUSE_INIT");
    channel.init_request.resize(static_cast<std::size_t>(n));
    while (channel.fds.size() < std::min(threads, kind.most_threads)) {
      channel.fds.push_back(UMWELT_TRY(open_at(AT_FDCWD, "/dev/fuse", O_RDWR)));
      auto source = static_cast<std::uint32_t>(first);
      if (::ioctl(channel.fds.back().get(), FUSE_DEV_IOC_CLONE, &source) != 0)
        return fail_errno("clone the FUSE descriptor");
    }
    return {};
  };
  if (const auto prepared = prepare(); !prepared) {
    ::umount2(path.c_str(), MNT_DETACH);
    return fail(prepared.error());
  }
  return channel;
}

Result<std::unique_ptr<Connection>> Connection::open(const std::vector<int>& fds,
                                                     const std::string& init_request,
                                                     Journal& journal,
                                                     const fuse_lowlevel_ops& operations,
                                                     void* userdata, Settings settings) {
  struct sigaction action {};
  action.sa_handler = [](int) {};  // without SA_RESTART: read(2) returns
  if (::sigaction(kWakeSignal, &action, nullptr) != 0) return fail_errno("sigaction");

  std::unique_ptr<Connection> connection(new Connection(journal));
  connection->settings_ = std::move(settings);
  // One for each descriptor, as requests may be left on any.
  for (const int fd : fds) {
    const Journal::Owner owner{static_cast<std::uint16_t>(connection->settings_.index),
                               static_cast<std::uint16_t>(connection->workers_.size())};
    auto slot = journal.take(owner);
    if (!slot) return fail(ENOBUFS, "the journal has no room for a thread");
    auto worker = std::make_unique<Worker>(*connection, owner, *std::move(slot));
    UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!copy) return fail_errno("copy the FUSE descriptor");
    worker->session = UMWELT_TRY(make_session(std::move(copy), init_request, operations, userdata));
    connection->workers_.push_back(std::move(worker));
  }
  return connection;
}

void Connection::answer(const Journal::Left& left, bool give_up) {
  if (left.owner.worker >= workers_.size()) return;
  Worker& worker = *workers_[left.owner.worker];
  if (!give_up) return worker.process(left.slot.memory(), left.size);
  fuse_out_header reply{};
  reply.len = sizeof(reply);
  reply.error = -EIO;
  reply.unique = header(left.slot.memory()).unique;
  if (::write(::fuse_session_fd(worker.session.get()), &reply, sizeof(reply)) < 0)
    spdlog::debug("answer a request by EIO: {}", std::strerror(errno));
}

void Connection::start() {
  for (auto& worker : workers_) {
    if (worker->me.worker >= settings_.threads) break;
    worker->thread = std::thread([&worker = *worker] { worker.run(); });
    ::pthread_setname_np(worker->thread.native_handle(), settings_.name.substr(0, 15).c_str());
  }
}

std::shared_ptr<const void> Connection::keep_request() {
  Worker* worker = Worker::current;
  if (worker == nullptr) return nullptr;
  auto next = worker->connection.journal_.take(worker->me);
  if (!next) return nullptr;
  std::swap(worker->slot, *next);
  return std::make_shared<Journal::Slot>(*std::move(next));
}

std::uint64_t Connection::current_request() { return Worker::current_request; }

bool Connection::is_stuck(std::chrono::milliseconds time) const {
  const std::uint64_t limit_ns = static_cast<std::uint64_t>(time.count()) * 1'000'000;
  const std::uint64_t now_ns = monotonic_ns();
  for (const auto& worker : workers_) {
    if (!worker->thread.joinable()) continue;
    const std::uint64_t since_ns = worker->busy_since_ns.load(std::memory_order_relaxed);
    if (since_ns == 0 || now_ns < since_ns + limit_ns) return false;
  }
  return true;
}

Connection::Connection(Journal& journal) : journal_(journal) {}
Connection::~Connection() { stop(); }

void Connection::forget_node(std::uint64_t node) {
  log_notify(::fuse_lowlevel_notify_inval_inode(workers_[0]->session.get(), node, 0, 0), "node");
}

void Connection::forget_name(std::uint64_t directory, const std::string& name) {
  log_notify(::fuse_lowlevel_notify_inval_entry(workers_[0]->session.get(), directory, name.c_str(),
                                                name.size()),
             "name");
}

void Connection::stop() {
  for (auto& worker : workers_) {
    worker->stopping = true;
  }
  for (auto& worker : workers_) {
    // A signal that arrives just before the read(2) is lost, hence again and again.
    while (worker->thread.joinable() && !worker->done) {
      ::pthread_kill(worker->thread.native_handle(), kWakeSignal);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (worker->thread.joinable()) worker->thread.join();
  }
  workers_.clear();
}

}  // namespace umwelt::fusefs
