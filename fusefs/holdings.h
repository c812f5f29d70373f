// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

// The descriptors that make a running daemon, by name: another process that has them can go on.
//
//   lock, state.lock         of the runtime folder; of the state folder
//   listener, listener.lock  the control socket
//   journal                  journal.h
//   config.0, live.0, pressure.0
//                            the mounted /dev/fuse descriptors; config.1 ... clones of them
//   kept/NAME                what the server asked to keep (descriptor_store.h)
//   channel                  the other end of the channel to the server, or to the keeper
//   server                   a pidfd
//   guard, guarded/ID/1      the connection to the guard (intercept/guard.h); what it guards, as
//                            names of kept listeners with any descriptor
//
// They go from one program to the next as a service manager passes them (sd_listen_fds(3)): open
// from 3 on, their names in $LISTEN_FDNAMES, and $LISTEN_FDNAMES_1 ... where they are too long for
// one. So what systemd has kept for us comes back the same way.
class Holdings {
 public:
  // What $LISTEN_FDS says, if it is for this process; the variables are removed. EPROTO when
  // they make no sense.
  static Result<Holdings> from_environment();

  // Copies of all of them.
  Result<Holdings> duplicate() const;

  // Replaces this process by a program, which gets them. Only returns when that fails: some
  // descriptors are others then. `arguments` with the program's path first.
  Error exec(std::vector<std::string> arguments) &&;

  bool empty() const { return descriptors_.empty(); }
  bool contains(const std::string& name) const { return descriptors_.contains(name); }
  int get(const std::string& name) const;  // -1: not there
  // NAME.0, NAME.1 ...
  std::vector<int> all(const std::string& name) const;
  UniqueFd take(const std::string& name);
  void put(const std::string& name, UniqueFd fd) { descriptors_[name] = std::move(fd); }
  void drop(const std::string& name) { descriptors_.erase(name); }

  const std::map<std::string, UniqueFd>& items() const { return descriptors_; }

 private:
  std::map<std::string, UniqueFd> descriptors_;
};

// Holdings::exec() in two steps. A process that has threads makes it before fork(2): its child may
// not allocate, because another thread may have held the allocator's lock.
class Successor {
 public:
  static Result<Successor> make(const Holdings& holdings, std::vector<std::string> arguments);

  // Async-signal-safe. Only returns when that fails, with errno.
  int run();

 private:
  std::vector<UniqueFd> moved_;
  std::vector<int> descriptors_;  // the first goes to 3; each out of the way of the others
  std::vector<std::string> arguments_;
  std::vector<std::string> environment_;  // $LISTEN_PID last, with room for the number
  std::vector<char*> argv_, envp_;        // null-terminated
};

}  // namespace umwelt::fusefs
