// SPDX-License-Identifier: Apache-2.0
// How the keeper lets another program take over.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "base/log.h"
#include "fusefs/keeper.h"
#include "fusefs/process.h"

namespace umwelt::fusefs {
namespace {

using namespace std::chrono_literals;
using Clock = ServerProcess::Clock;
using State = ServerProcess::State;

constexpr auto kPreparePatience = 20000ms;

}  // namespace

void Keeper::start_upgrade(const std::string& program) {
  if (stopping_) return;
  if (candidate_ || !successor_.empty()) return refuse_upgrade("an upgrade is under way");
  const std::string path = program.empty() ? program_ : program;
  if (::access(path.c_str(), X_OK) != 0) return refuse_upgrade(fail_errno(path).value().message());
  spdlog::info("upgrading to {}", path);
  auto spawned = spawn(path);
  if (!spawned) return refuse_upgrade(spawned.error().message());
  candidate_ = *std::move(spawned);
}

void Keeper::refuse_upgrade(const std::string& why) {
  spdlog::error("no upgrade: {}", why);
  if (server_) (void)server_->channel.send(Verb::kRefused, why);
}

// The new server serves: what starts the ones after it must be of the same program.
void Keeper::become_successor() {
  Holdings all = std::move(holdings_);
  const auto put = [&](const std::string& name, int fd) {
    if (fd >= 0) all.put(name, UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3)));
  };
  put("server", server_->pidfd.get());
  put("life", server_->life.get());
  put("channel", server_->channel.fd());
  if (guard_) put("guard", guard_->fd());
  for (const std::string& suffix : guarded_) put(kGuarded + suffix, server_->pidfd.get());
  const Error error = std::move(all).exec(arguments_for(successor_, options_.arguments));
  // The server that is there starts another keeper.
  spdlog::critical("keeper: {}", error.message());
  ::_exit(1);
}

void Keeper::see_to_candidate() {
  if (!candidate_) return;
  // One that serves nothing yet waits for no page: its end comes, and tells the reason.
  const bool dead = candidate_->is_dead(/*may_wait_for_page=*/false);
  receive(*candidate_);
  if (dead) {
    const int status = candidate_->wait_status;
    candidate_.reset();
    refuse_upgrade(status < 0 ? fmt::format("the new server was ended by signal {}", -status)
                              : fmt::format("the new server exited with status {}", status));
    return;
  }
  if (candidate_->state == State::kPreparing && Clock::now() - candidate_->since > kPreparePatience)
    candidate_->kill();
  if (candidate_->state == State::kPrepared && server_ && server_->state == State::kServing) {
    server_->ending = true;
    server_->enter(State::kRetiring);
    (void)server_->channel.send(Verb::kRetire);
  }
}

}  // namespace umwelt::fusefs
