// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "container/container.h"
#include "intercept/affinity.h"
#include "intercept/narrowed.h"
#include "intercept/request.h"

namespace umwelt::intercept {

// What a call returns: `value`, or -1 with `error`; `proceed`: what the kernel itself says.
struct Reply {
  std::int64_t value = 0;
  int error = 0;
  bool proceed = false;
};

// The calls of one container. Thread-safe.
class Answers {
 public:
  using ContainerPtr = std::shared_ptr<container::Container>;
  // Puts the file of status.h in the place of the process's own, where only itself waits for that.
  // `process` is its id in this process's pid namespace. After ETIMEDOUT it is not asked for again.
  using Cover = std::function<Result<void>(const container::Record& record, pid_t process)>;
  explicit Answers(ContainerPtr container, Cover cover = {})
      : container_(std::move(container)), cover_(std::move(cover)) {}

  // `waiting` says whether the caller still waits; its memory is only written if so. What is
  // written may be as old as kShareNs, as it may be of files.
  Reply answer(const Request& request, const std::function<bool()>& waiting);
  static constexpr std::uint64_t kShareNs = 1'000'000;

  // After the container changed: tasks that had narrowed their affinity have the CPUs behind the
  // same shown numbers again.
  void container_changed();

  const ContainerPtr& container() const { return container_; }

 private:
  struct Known {
    view::Cpus cpus;
    std::shared_ptr<const host::Cpus> host;
    MaskSize size;
  };
  using KnownPtr = std::shared_ptr<const Known>;
  struct Sysinfo {
    std::string bytes64, bytes32;
    std::uint64_t made_ns = 0, generation = 0;
  };

  Result<KnownPtr> known();
  Result<std::string> sysinfo_bytes(Layout layout);
  Reply sysinfo(const Request& request, const std::function<bool()>& waiting);
  Reply sched_getaffinity(const Request& request, const std::function<bool()>& waiting);
  Reply sched_setaffinity(const Request& request, const std::function<bool()>& waiting);
  Reply getcpu(const Request& request, const std::function<bool()>& waiting);
  Result<pid_t> target(const Request& request) const;
  void cover_status(pid_t caller);

  const ContainerPtr container_;
  const Cover cover_;
  std::mutex mutex_;  // guards what follows up to cover_hangs_
  KnownPtr known_;
  std::uint64_t known_generation_ = 0, known_made_ns_ = 0;
  Narrowed narrowed_;
  std::map<pid_t, std::uint64_t> asked_to_cover_;  // processes and when they started
  bool cover_hangs_ = false;
  std::mutex sysinfo_mutex_;  // guards sysinfo_, also while that is made
  std::optional<Sysinfo> sysinfo_;
};

}  // namespace umwelt::intercept
