// SPDX-License-Identifier: Apache-2.0
#include "cgroup/pressure.h"

#include "base/file.h"

namespace umwelt::cgroup {
namespace {

Result<std::optional<std::string>> read_text(HeldFile& file, std::string& buffer) {
  auto text = file.read(buffer);
  if (!text) {
    // psi=0, or switched off for this cgroup
    if (text.error().code == EOPNOTSUPP) return std::optional<std::string>();
    return fail(text.error());
  }
  return *text ? std::optional<std::string>(**text) : std::nullopt;
}

}  // namespace

PressureReader::PressureReader(const Directory* directory)
    : cpu_(directory, 0, "cpu.pressure"),
      memory_(directory, 0, "memory.pressure"),
      io_(directory, 0, "io.pressure"),
      irq_(directory, 0, "irq.pressure") {}

void PressureReader::refresh() {
  for (HeldFile* file : {&cpu_, &memory_, &io_, &irq_}) file->refresh();
}

Result<Pressure> PressureReader::read(std::string& buffer) {
  Pressure pressure;
  pressure.cpu = UMWELT_TRY(read_text(cpu_, buffer));
  pressure.memory = UMWELT_TRY(read_text(memory_, buffer));
  pressure.io = UMWELT_TRY(read_text(io_, buffer));
  pressure.irq = UMWELT_TRY(read_text(irq_, buffer));
  return pressure;
}

Result<UniqueFd> open_pressure(const Directory& directory, const std::string& resource) {
  for (const char* known : {"cpu", "memory", "io", "irq"})
    if (resource == known) return open_at(directory.fd(), resource + ".pressure", O_RDWR);
  return fail(EINVAL, "pressure of \"" + resource + "\"");
}

}  // namespace umwelt::cgroup
