// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace umwelt::fusefs {

// Makes the change of a container's files in the page cache one step for every reader.
//
// A read(2) checks the attributes, asks for pages that are missing, and copies as much as the size
// says at that moment: three looks at one file, between which it may change. So the requests that
// would tell the kernel of a new size (GETATTR, LOOKUP) are held back while the old pages are
// dropped and the reads that began before come to their end, with old pages of the old size. Then
// what those have brought back is dropped, and the kernel gets the new sizes: it takes over a size
// a moment before it drops old pages, so there must be none. The waits are short and nobody can be
// sure that a reader did not sleep through them; tests/mount counts.
//
// Thread-safe.
class Gate {
 public:
  using Request = std::function<void()>;

  bool is_closed(std::uint64_t container, pid_t tid);  // to that thread
  // Keeps the request, to run it in open(), where the container's files are changing; false where
  // they are not.
  bool hold(std::uint64_t container, Request request);

  // The generation of the limits that the container's files show: `current` where no change has
  // been told yet.
  std::uint64_t generation(std::uint64_t container, std::uint64_t current);

  // Around a change, by one thread at a time. open() runs the requests that were held. Between
  // settle() and open() the files are described as under `generation`, to the thread `tid` alone.
  void close(std::uint64_t container);
  void settle(std::uint64_t container, std::uint64_t generation, pid_t tid);
  void open(std::uint64_t container, std::uint64_t generation);

  void forget(std::uint64_t container);

 private:
  struct Entry {
    bool closed = false;
    pid_t settler = 0;
    std::uint64_t generation = 0;
    std::vector<Request> held;
  };
  std::mutex mutex_;
  std::unordered_map<std::uint64_t, Entry> entries_;
};

}  // namespace umwelt::fusefs
