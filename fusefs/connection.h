// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fuse3/fuse_lowlevel.h>

#include <array>
#include <chrono>
#include <climits>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fusefs/journal.h"
#include "fusefs/placement.h"

namespace umwelt::fusefs {

// The connections, in the order of their numbers (Side): the name of each is that of its
// descriptors, of its threads, and of its mount point in the runtime folder.
struct ConnectionKind {
  const char* name;
  // Of a filesystem that may be written to, the kernel takes the access time for changed by each
  // read, and asks for the attributes at the next fstat(2).
  bool read_only;
  unsigned most_threads;
  // For a read(2) past the page cache the kernel pins and dirties every page of the reader's buffer
  // (cat's has 32) up to this, whatever the text fills of it.
  unsigned max_read;
};
inline constexpr unsigned kLiveMaxRead = 16U << 10;
inline constexpr std::array<ConnectionKind, Journal::kConnections> kConnectionKinds{
    {{"config", true, UINT_MAX, UINT_MAX},
     {"live", true, UINT_MAX, kLiveMaxRead},
     {"pressure", false, 2, kLiveMaxRead}}};

// A filesystem that this program mounted: the descriptor, clones of it for more threads (each reads
// requests and writes answers on its own), and the FUSE_INIT request that the kernel sent, once.
// That is all another process needs to serve it: it is given the request as if it came from the
// kernel, which ignores every reply to it but the first.
struct Channel {
  std::vector<UniqueFd> fds;
  std::string init_request;
};

// Opens /dev/fuse `threads` times, or as often as that kind may, and mounts it at `path`, for all
// users, with the kernel checking the permissions.
Result<Channel> mount_channel(const std::string& path, unsigned threads,
                              const ConnectionKind& kind);

// The smallest buffer that a read(2) of /dev/fuse takes has room for as much as a write request
// could have. Nobody writes; but libfuse derives from it how much a read request may ask for.
inline constexpr unsigned kMaxWrite = 128U << 10;

// One FUSE connection: threads that serve it until stop(). Each has a descriptor and a libfuse
// session of its own, since a reply must be written to the descriptor that gave the request.
class Connection {
 public:
  struct Settings {
    unsigned index = 0;             // in the journal
    std::string name;               // what the threads are called
    unsigned threads = 0;           // at most as many as there are descriptors
    std::function<void()> on_lost;  // called when somebody else unmounted the filesystem
  };
  // `journal`, `operations` and `userdata` must outlive the connection. It serves nothing yet.
  // `fds` and the request are a Channel's; the descriptors are copied.
  static Result<std::unique_ptr<Connection>> open(const std::vector<int>& fds,
                                                  const std::string& init_request, Journal& journal,
                                                  const fuse_lowlevel_ops& operations,
                                                  void* userdata, Settings settings);
  ~Connection();

  // Answers what another process left unanswered: by EIO if `give_up`. Before start().
  void answer(const Journal::Left& left, bool give_up);
  void start();

  // For the operation that a thread is at: the request is answered later, from another thread. It
  // stays in the journal as long as the result is held. Null when no more can be kept there: it
  // must be answered before the operation returns.
  static std::shared_ptr<const void> keep_request();
  // The kernel's number of the request that the calling thread processes.
  static std::uint64_t current_request();

  // Whether every thread has been at one request for that long.
  bool is_stuck(std::chrono::milliseconds time) const;

  // Makes the kernel forget what it knows of a node, content and attributes, or of a name in a
  // directory. Returns when that is done. Waits for requests in flight: never called by a thread
  // that serves a connection, nor with a lock that serving one takes. For a name, the kernel locks
  // the directory: only in one that no container reaches. Something that the kernel does not know
  // is no error.
  void forget_node(std::uint64_t node);
  void forget_name(std::uint64_t directory, const std::string& name);

  // Waits for the threads to finish the request they are at. Others wait for the next server.
  void stop();

 private:
  struct Worker;
  explicit Connection(Journal& journal);

  Journal& journal_;
  Settings settings_;
  Placement placement_;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace umwelt::fusefs
