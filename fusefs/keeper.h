// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fusefs/holdings.h"
#include "fusefs/options.h"
#include "fusefs/server_process.h"
#include "fusefs/service_manager.h"
#include "intercept/guard.h"

namespace umwelt::fusefs {

// Holds everything that must not be lost (Holdings), and does nothing but see to it that a server
// is there that uses it: starts one, starts another when it dies or does not answer for 2 s, and
// replaces it by another program's on request. While there is none, whoever reads a file waits.
//
// Single-threaded and small; it never touches a file that is served. A server is a fork of it, so
// that a new one is there at once, whatever became of the program's file.
class Keeper {
 public:
  // Takes the runtime folder and mounts the filesystems, unless the descriptors of an earlier
  // keeper say that this is done. Before: SIGTERM, SIGINT, SIGHUP, SIGQUIT and SIGUSR2 blocked.
  // EAGAIN and a text that says who, when another daemon has the runtime folder.
  static Result<std::unique_ptr<Keeper>> make(const Options& options, Holdings inherited);
  ~Keeper();

  // Until a signal ends it or somebody unmounts a filesystem; then everything is unmounted. A new
  // server calls run_server, in its own process, and ends with what that returns. `on_ready` is
  // called once. Fails when the first server of all does not come to serve.
  using RunServer = std::function<int(const Options&, Holdings)>;
  Result<void> run(const RunServer& run_server, const std::function<Result<void>()>& on_ready);

 private:
  static constexpr char kGuarded[] = "guarded/";  // in Holdings, only while another program starts
  explicit Keeper(const Options& options);

  Result<void> take_runtime();
  Result<bool> are_mounted() const;
  void forget(const std::string& prefix);  // holdings, also those that the service manager keeps
  Result<void> make_mounts();
  std::vector<std::string> mount_points() const;
  Result<void> open_signals();
  void adopt_server();
  void adopt_guard();

  Result<std::unique_ptr<ServerProcess>> spawn(const std::string& program);
  [[noreturn]] void become_server(Holdings&& extra, const std::string& program);
  void restart();
  void start_upgrade(const std::string& program);
  void refuse_upgrade(const std::string& why);
  void become_successor();
  bool add_to_guard(const std::string& suffix);
  void see_to_guard();

  int poll_timeout() const;
  void wait();
  void on_signal();
  void receive(ServerProcess& child);
  void see_to_server();
  void see_to_candidate();
  void reap();
  void begin_stop();
  void clean_up();

  Options options_;
  const std::string program_;  // this one
  Holdings holdings_;
  UniqueFd signals_;
  std::optional<intercept::Guard> guard_;
  std::set<std::string> guarded_;  // suffixes of kept listeners
  ServiceManager manager_;
  RunServer run_server_;

  std::unique_ptr<ServerProcess> server_;     // serves, or is about to
  std::unique_ptr<ServerProcess> candidate_;  // prepares to be the next, of another program
  std::vector<UniqueFd> corpses_;             // pidfds of those that are being replaced
  std::string successor_;                     // program of server_, if another one than this
  ServerProcess::Clock::time_point restart_at_, guard_at_;
  unsigned failed_starts_ = 0;
  bool leaves_all_ = false;  // to the next, which gets it from the service manager
  bool has_served_ = false, announced_ = false, stopping_ = false, finished_ = false;
};

}  // namespace umwelt::fusefs
