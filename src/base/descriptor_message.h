// SPDX-License-Identifier: Apache-2.0
// Messages over a unix(7) socket that carry descriptors (SCM_RIGHTS).
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace umwelt {

inline constexpr std::size_t kMaxDescriptorsInMessage = 8;

// As sendmsg(2) with MSG_NOSIGNAL, again after EINTR. EINVAL for more descriptors than that. `to`:
// whom a socket that is not connected sends it to, an address of `to_bytes`.
ssize_t send_message(int socket, std::string_view bytes, std::span<const int> descriptors = {},
                     int flags = 0, const sockaddr_un* to = nullptr, socklen_t to_bytes = 0);

// As recvmsg(2), again after EINTR; appends the descriptors that came, which are close-on-exec.
// Those beyond kMaxDescriptorsInMessage are closed by the kernel.
ssize_t receive_message(int socket, std::span<char> buffer, std::vector<UniqueFd>& descriptors,
                        int flags = 0);

}  // namespace umwelt
