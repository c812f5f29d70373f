// SPDX-License-Identifier: Apache-2.0
// Between the keeper and the server: a pair of SOCK_SEQPACKET sockets.
#pragma once

#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::fusefs {

enum class Verb : char {
  // From the keeper.
  kGo = 'g',       // serve, whoever did before is gone
  kPing = 'p',     // answer with kPong if all is well
  kRetire = 'r',   // answer what you have begun, and exit
  kRefused = 'x',  // the upgrade that you asked for failed: `text`
  // From the server.
  kPrepared = 'P',  // waits for kGo
  kReady = 'R',     // serves
  kPong = 'a',
  kKeep = 'k',       // `fd` as `text`
  kDrop = 'd',       // the one that is called `text`
  kGuard = 'G',      // start one for the listener that is kept as "listener/" + `text`
  kUpgrade = 'u',    // to the program `text`; "": the one that was started
  kUnmounted = 'U',  // somebody else unmounted a filesystem: stop
};

struct Message {
  Verb verb = Verb::kPing;
  std::string text = {};  // of at most 4000 bytes
  UniqueFd fd = {};
};

// One end. send() may be called by any thread, receive() by one.
class KeeperChannel {
 public:
  explicit KeeperChannel(UniqueFd fd) : fd_(std::move(fd)) {}
  static Result<std::pair<UniqueFd, UniqueFd>> make_pair();

  int fd() const { return fd_.get(); }
  // Goes on with another peer. Not while another thread uses fd().
  void replace(UniqueFd fd);
  // Never waits: EAGAIN when the peer does not take anything off. EPIPE when it is gone.
  Result<void> send(Verb verb, const std::string& text = "", int fd = -1);
  // The next one; nullopt when the peer is gone. EAGAIN: none there.
  Result<std::optional<Message>> receive();

 private:
  UniqueFd fd_;
  std::mutex mutex_;
};

}  // namespace umwelt::fusefs
