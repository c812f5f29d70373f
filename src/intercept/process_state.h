// SPDX-License-Identifier: Apache-2.0
// Who hands a seccomp listener over, and for which container: the message that OCI runtimes send to
// a listenerPath (runtime-spec config-linux.md, "The Container Process State"), the listener as
// SCM_RIGHTS beside it, on a stream socket.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::intercept {

struct ProcessState {
  std::vector<std::string> fds;  // names of the descriptors, in their order
  pid_t pid = 0;                 // of the process that the filter is of
  pid_t init_pid = 0;            // of the container
  std::string metadata;          // listenerMetadata
  std::string container_id;      // the runtime's
};

// The container that the metadata names; kNobody when it is no id.
inline constexpr const char* kNobody = "unknown";
std::string named_container(const ProcessState& state);

inline constexpr const char* kListenerName = "seccompFd";
inline constexpr const char* kNoticeName = "umweltNotice";  // of our own launcher: notice.h

// EBADMSG when it is not such an object.
Result<ProcessState> parse_process_state(std::string_view text);

struct Handed {
  ProcessState state;
  UniqueFd listener, notice;
};
// One message. EBADMSG, also without a listener; ETIMEDOUT, EMSGSIZE; ENODATA when whoever
// connected only wanted to know whether somebody listens.
Result<Handed> receive_handed(int socket, std::chrono::milliseconds patience);

// A socket that listens at `path`, for its owner alone; what was there is removed.
Result<UniqueFd> listen_on(const std::string& path);

// Whether a connection to the socket would be taken, now or when somebody comes to it.
bool somebody_listens(const std::string& socket_path);

// Gives the daemon behind the socket the listener of a process of container `id`, and waits until
// it has it; asks again when the daemon's server was replaced before it answered. An Error is the
// daemon's own, or connect(2)'s.
Result<void> hand_over(const std::string& socket_path, const std::string& id, int listener,
                       int notice, std::chrono::milliseconds patience = std::chrono::seconds(5));
// The daemon's part of the last: what hand_over() returns. Runtimes do not wait for it.
void acknowledge(int socket, const Result<void>& result);

}  // namespace umwelt::intercept
