// SPDX-License-Identifier: Apache-2.0
#include "fusefs/daemon.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/log.h"
#include "container/registry.h"
#include "container/watch.h"
#include "control/handler.h"
#include "control/server.h"
#include "fusefs/connection.h"
#include "fusefs/filesystem.h"
#include "fusefs/journal.h"
#include "fusefs/mounts.h"
#include "fusefs/operations.h"
#include "intercept/paths.h"
#include "intercept/server.h"
#include "launch/attach_status.h"
#include "vdisk/housekeeping.h"

namespace umwelt::fusefs {
namespace {

// A request that so many servers in a row did not survive gets an error instead of an answer.
constexpr unsigned kMaxReplays = 8;
// Threads that mount files again in containers.
constexpr std::size_t kAttachers = 8;

Result<UniqueFd> copy(int fd) {
  UniqueFd result(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!result) return fail_errno("copy a descriptor");
  return result;
}

}  // namespace

// Members are in the order in which they start, but for the watch, which stops after the control
// socket and before the filesystem that it tells of changes.
struct Daemon::Impl {
  Options options;
  std::optional<Surroundings> surroundings;
  std::shared_ptr<host::Reader> host;
  std::unique_ptr<Journal> journal;
  std::optional<Snapshots> snapshots, descriptions;
  std::atomic<Snapshots*> texts{nullptr};  // snapshots, for the watch's thread
  std::unique_ptr<container::Registry> registry;
  std::unique_ptr<Filesystem> filesystem;
  std::array<Served, Journal::kConnections> served;
  std::array<std::unique_ptr<Connection>, Journal::kConnections> connections;
  std::unique_ptr<intercept::Server> intercept;
  std::atomic<intercept::Server*> intercept_started{nullptr};  // read by the watch's thread
  std::unique_ptr<container::Watch> watch;
  std::unique_ptr<control::Services> services;
  std::unique_ptr<control::Server> server;
  std::unique_ptr<vdisk::Housekeeping> housekeeping;
  std::atomic<bool> stopping{false};
  std::thread teller, attacher;
  std::mutex tell_mutex;                               // guards what follows
  std::set<container::Registry::ContainerPtr> untold;  // of those that were loaded

  ~Impl() {
    stopping = true;
    for (std::thread* thread : {&teller, &attacher})
      if (thread->joinable()) thread->join();
    housekeeping.reset();
    server.reset();
    watch.reset();
    if (filesystem) filesystem->set_connections({}, "");
  }

  Result<void> prepare();
  Result<void> load_containers();
  Result<void> connect(const Holdings& holdings);
  void replay(std::vector<Journal::Left> left);
  Result<void> mount_shared();
  Result<void> serve_syscalls();
  Result<void> serve_control(const Holdings& holdings);
  void attach_containers();
  void attach(const container::Record& record);
  void tell_of_changes();
  void tell(const container::Registry::ContainerPtr& container);
  void keep_disks();
};

Result<void> Daemon::Impl::prepare() {
  for (std::string* path : {&options.directories.runtime, &options.directories.state})
    *path = UMWELT_TRY(real_directory(*path));
  host = UMWELT_TRY(host::Reader::open());
  registry = std::make_unique<container::Registry>(options.directories.records(),
                                                   UMWELT_TRY(cgroup::Hierarchies::read()), host);
  filesystem = UMWELT_TRY(Filesystem::make(*registry));
  return {};
}

Result<void> Daemon::Impl::load_containers() {
  registry->observe({.added = {}, .removed = [this](const auto& container) {
                       filesystem->container_removed(container->record());
                       if (auto* kept = texts.load(); kept && registry->is_empty()) kept->clear();
                     }});
  watch = UMWELT_TRY(container::Watch::start(*registry, host, [this](const auto& container) {
    filesystem->container_changed(*container);
    if (auto* answering = intercept_started.load()) answering->container_changed(container);
  }));
  const unsigned count = UMWELT_TRY(registry->load());
  if (count > 0) spdlog::info("{} containers taken over", count);
  for (auto& container : registry->all()) untold.insert(std::move(container));
  return {};
}

Result<void> Daemon::Impl::connect(const Holdings& holdings) {
  journal = UMWELT_TRY(Journal::map(holdings.get("journal")));
  snapshots.emplace(journal->snapshot_memory());
  texts = &*snapshots;
  descriptions.emplace(journal->description_memory());
  filesystem->set_outliving(&*snapshots, &*descriptions);
  auto left = journal->left();
  std::vector<Connection*> opened;
  for (unsigned i = 0; i < Journal::kConnections; ++i) {
    const std::string name = kConnectionKinds[i].name;
    served[i] = {filesystem.get(), static_cast<Side>(i)};
    connections[i] = UMWELT_TRY(Connection::open(holdings.all(name), journal->init_request(i),
                                                 *journal, operations(), &served[i],
                                                 {.index = i,
                                                  .name = name,
                                                  .threads = options.threads,
                                                  .on_lost = surroundings->on_unmounted}));
    opened.push_back(connections[i].get());
  }
  filesystem->set_connections(opened, options.directories.config_mount());
  replay(std::move(left));
  for (Connection* connection : opened) connection->start();
  return {};
}

void Daemon::Impl::replay(std::vector<Journal::Left> left) {
  if (!left.empty()) spdlog::info("{} requests of an earlier server to answer", left.size());
  const bool give_up = journal->begin_replay() >= kMaxReplays;
  if (give_up) spdlog::error("requests that end every server are answered with EIO");
  for (const Journal::Left& request : left)
    if (request.owner.connection < connections.size())
      connections[request.owner.connection]->answer(request, give_up);
  left.clear();
  journal->end_replay();
}

Result<void> Daemon::Impl::mount_shared() {
  if (journal->shared_tree_mounted() != 0) return {};
  const std::string shared =
      options.directories.live_mount() + "/" + std::string(Filesystem::kSharedName);
  UMWELT_CHECK(unmount_own(options.directories.shared_proc()));  // of a server that was killed here
  UMWELT_CHECK(bind_mount(shared + "/proc", options.directories.shared_proc()));
  UMWELT_CHECK(bind_mount(shared + "/sys", options.directories.shared_sys()));
  if (!options.lxcfs.empty()) {
    UMWELT_CHECK(unmount_own(options.lxcfs));
    UMWELT_CHECK(bind_mount(shared, options.lxcfs));
  }
  const std::string pressure_mount = options.directories.pressure_mount() + "/" +
                                     std::string(Filesystem::kSharedName) + "/proc/pressure";
  for (const std::string& proc :
       {options.directories.shared_proc(),
        options.lxcfs.empty() ? std::string() : options.lxcfs + "/proc"}) {
    if (proc.empty()) continue;
    const auto pressure = bind_mount(pressure_mount, proc + "/pressure");
    if (!pressure && pressure.error().code != ENOENT) return pressure;  // this kernel has none
  }
  journal->shared_tree_mounted() = 1;
  return {};
}

Result<void> Daemon::Impl::serve_syscalls() {
  DescriptorStore& store = surroundings->store;
  auto listeners = UMWELT_TRY(store.taken());
  intercept = UMWELT_TRY(intercept::Server::start(
      options.directories.runtime, *registry,
      {.keep = [&store](const std::string& name, int fd) { return store.keep(name, fd); },
       .drop = [&store](const std::string& name) { store.drop(name); },
       .guard = surroundings->guard},
      [this](const container::Record& record, pid_t process) {
        auto covered = launch::attach_status(record, options.directories, process);
        if (!covered) spdlog::debug("/proc/{}/status: {}", process, covered.error().message());
        return covered;
      },
      std::move(listeners)));
  intercept_started = intercept.get();
  return {};
}

Result<void> Daemon::Impl::serve_control(const Holdings& holdings) {
  services = std::make_unique<control::Services>(
      control::Services{.registry = *registry,
                        .refresh = [this](const auto& container) -> Result<void> {
                          UMWELT_CHECK(watch->refresh(container));
                          tell(container);
                          return {};
                        },
                        .keeper_pid = surroundings->keeper_pid,
                        .upgrade = surroundings->upgrade,
                        .attached = [this] { return journal->containers_attached() != 0; }});
  UniqueFd listener = UMWELT_TRY(copy(holdings.get("listener")));
  server = UMWELT_TRY(control::Server::start(
      {.lock = {}, .socket = std::move(listener)},
      [this](const auto& request) { return control::handle_request(*services, request); }));
  return {};
}

// Into running containers that lost their files with the keeper and the server of before. Several
// at a time, so that one which does not answer does not hold up the others.
void Daemon::Impl::attach_containers() {
  if (journal->containers_attached() != 0) return;
  const auto containers = registry->all();
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i; !stopping && (i = next++) < containers.size();)
      attach(containers[i]->record());
  };
  std::vector<std::thread> helpers;
  try {
    while (helpers.size() + 1 < std::min(kAttachers, containers.size())) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // as many as there are
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (!stopping) journal->containers_attached() = 1;
}

void Daemon::Impl::attach(const container::Record& record) {
  if (record.init_pid == 0) return;
  const auto attached = launch::attach_again(record, options.directories);
  if (!attached)
    spdlog::warn("files of container {}: {}", record.id, attached.error().message());
  else if (attached->mounted > 0)
    spdlog::info("{} files mounted again in container {}", attached->mounted, record.id);
}

void Daemon::Impl::tell_of_changes() {
  for (const auto& container : registry->all()) {
    if (stopping) return;
    tell(container);
  }
}

// Its limits may have changed while nobody was there to see it.
void Daemon::Impl::tell(const container::Registry::ContainerPtr& container) {
  const std::lock_guard lock(tell_mutex);
  if (untold.erase(container) != 0) filesystem->container_changed(*container);
}

// Containers see their files without it.
void Daemon::Impl::keep_disks() {
  const auto log = [](vdisk::Housekeeping::Weight weight, const std::string& text) {
    if (weight == vdisk::Housekeeping::Weight::kWarning)
      spdlog::warn("{}", text);
    else
      spdlog::info("{}", text);
  };
  const auto settings = vdisk::read_settings(options.directories.config);
  if (!settings) return spdlog::error("{}", settings.error().message());
  auto started = vdisk::Housekeeping::start(options.directories, *settings, log);
  if (!started) return spdlog::error("vdisks: {}", started.error().message());
  housekeeping = std::move(*started);
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::prepare(const Options& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  UMWELT_CHECK(impl->prepare());
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

Result<void> Daemon::serve(const Holdings& holdings, Surroundings surroundings) {
  impl_->surroundings.emplace(std::move(surroundings));
  UMWELT_CHECK(impl_->load_containers());
  UMWELT_CHECK(impl_->connect(holdings));
  UMWELT_CHECK(impl_->mount_shared());
  UMWELT_CHECK(impl_->serve_syscalls());
  UMWELT_CHECK(impl_->serve_control(holdings));
  impl_->keep_disks();
  return {};
}

void Daemon::look_after_containers() {
  impl_->attacher = std::thread([this] { impl_->attach_containers(); });
  impl_->teller = std::thread([this] { impl_->tell_of_changes(); });
}

bool Daemon::is_stuck(std::chrono::milliseconds time) const {
  return (impl_->watch && impl_->watch->is_stuck()) ||
         std::any_of(impl_->connections.begin(), impl_->connections.end(),
                     [&](const auto& it) { return it && it->is_stuck(time); });
}

}  // namespace umwelt::fusefs
