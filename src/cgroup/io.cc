// SPDX-License-Identifier: Apache-2.0
#include "cgroup/io.h"

#include "cgroup/parse.h"

namespace umwelt::cgroup {

IoReader::IoReader(const Directory* directory) : v2_(directory->v2()) {
  if (v2_) {
    stat_ = HeldFile(directory, 0, "io.stat");
  } else {
    bytes_ = HeldFile(directory, 0, "blkio.throttle.io_service_bytes_recursive");
    serviced_ = HeldFile(directory, 0, "blkio.throttle.io_serviced_recursive");
  }
}

void IoReader::refresh() {
  for (HeldFile* file : {&stat_, &bytes_, &serviced_}) file->refresh();
}

Result<std::vector<DeviceIo>> IoReader::read(std::string& buffer) {
  if (v2_) {
    const auto text = UMWELT_TRY(stat_.read(buffer));
    return text ? parse_io_stat(*text) : std::vector<DeviceIo>();
  }
  std::string bytes;
  if (const auto text = UMWELT_TRY(bytes_.read(buffer))) bytes = *text;
  const auto serviced = UMWELT_TRY(serviced_.read(buffer));
  return parse_blkio(bytes, serviced.value_or(""));
}

}  // namespace umwelt::cgroup
