// SPDX-License-Identifier: Apache-2.0
// What the daemon does for the vdisks of its state directory, in a thread of its own: removes what
// belongs to nobody, keeps some vdisks ready, gives space back, and keeps the host from filling up.
//
// It keeps nothing that another process would need: after a SIGKILL the next one starts afresh, and
// what was ready is made again.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "container/record.h"
#include "vdisk/settings.h"

namespace umwelt::vdisk {

class Housekeeping {
 public:
  enum class Weight { kInformation, kWarning };
  using Log = std::function<void(Weight, const std::string&)>;

  // Reconciles the store, then starts the thread. `log` is called from there too.
  static Result<std::unique_ptr<Housekeeping>> start(const container::Directories& directories,
                                                     const Settings& settings, Log log);
  ~Housekeeping();  // lets go of prepared vdisks
  Housekeeping(const Housekeeping&) = delete;
  Housekeeping& operator=(const Housekeeping&) = delete;

 private:
  struct Impl;
  explicit Housekeeping(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace umwelt::vdisk
