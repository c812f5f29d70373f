// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "base/parse.h"
#include "cgroup/parse.h"

namespace umwelt::cgroup {
namespace {

using Device = std::pair<unsigned, unsigned>;
using Field = std::uint64_t DeviceIo::*;

// "254:0"
std::optional<Device> parse_device(std::string_view word) {
  constexpr std::uint64_t kMaxNumber = 1U << 20;  // MINORBITS
  const std::size_t colon = word.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const auto major = parse_u64(word.substr(0, colon));
  const auto minor = parse_u64(word.substr(colon + 1));
  if (!major || !minor || *major > kMaxNumber || *minor > kMaxNumber) return std::nullopt;
  return Device(*major, *minor);
}

std::vector<DeviceIo> sorted(std::map<Device, DeviceIo>& devices) {
  std::vector<DeviceIo> out;
  for (auto& [device, io] : devices) {
    io.major = device.first;
    io.minor = device.second;
    out.push_back(io);
  }
  return out;
}

// "254:0 Read 4096"; the last line, "Total 4096", is the sum of all devices.
Result<void> parse_blkio_file(std::string_view text, Field read, Field written, Field discarded,
                              std::map<Device, DeviceIo>& devices) {
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    const auto device = parse_device(next_word(rest));
    if (!device) continue;
    const std::string_view kind = next_word(rest);
    const auto value = parse_u64(next_word(rest));
    if (!value) return fail(EINVAL, "parse blkio.throttle");
    DeviceIo& io = devices[*device];
    if (kind == "Read")
      io.*read = *value;
    else if (kind == "Write")
      io.*written = *value;
    else if (kind == "Discard")
      io.*discarded = *value;
  }
  return {};
}

}  // namespace

Result<std::vector<DeviceIo>> parse_io_stat(std::string_view text) {
  static constexpr std::pair<std::string_view, Field> kFields[] = {
      {"rbytes", &DeviceIo::read_bytes},
      {"wbytes", &DeviceIo::written_bytes},
      {"rios", &DeviceIo::reads},
      {"wios", &DeviceIo::writes},
      {"dbytes", &DeviceIo::discarded_bytes},
      {"dios", &DeviceIo::discards},
  };
  // 254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6
  std::map<Device, DeviceIo> devices;
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    DeviceIo nobodys;
    DeviceIo* io = nullptr;
    for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest)) {
      // From 5.15 to 5.18 the line of a device without counts has no end: "7:7 7:6 rbytes=1"
      // (commit 3607849df478). "(unknown)" is a disk that is hidden, as a path of a multipath one.
      const auto device = parse_device(word);
      if (device || word == "(unknown)") {
        io = device ? &devices[*device] : &nobodys;
        continue;
      }
      if (!io) return fail(EINVAL, "parse io.stat");
      const std::size_t equals = std::min(word.find('='), word.size());
      for (const auto& [key, field] : kFields) {
        if (key != word.substr(0, equals)) continue;
        const auto value = parse_u64(word.substr(std::min(equals + 1, word.size())));
        if (!value) return fail(EINVAL, "parse io.stat");
        io->*field = *value;
      }
    }
  }
  return sorted(devices);
}

Result<std::vector<DeviceIo>> parse_blkio(std::string_view bytes, std::string_view serviced) {
  std::map<Device, DeviceIo> devices;
  UMWELT_CHECK(parse_blkio_file(bytes, &DeviceIo::read_bytes, &DeviceIo::written_bytes,
                                &DeviceIo::discarded_bytes, devices));
  UMWELT_CHECK(parse_blkio_file(serviced, &DeviceIo::reads, &DeviceIo::writes, &DeviceIo::discards,
                                devices));
  return sorted(devices);
}

std::optional<std::uint64_t> parse_pressure_some(std::string_view text) {
  constexpr std::string_view kTotal = "total=";
  while (auto line = next_line(text)) {
    std::string_view rest = *line;
    if (next_word(rest) != "some") continue;
    for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest))
      if (word.starts_with(kTotal)) return parse_u64(word.substr(kTotal.size()));
  }
  return std::nullopt;
}

std::optional<std::uint64_t> parse_huge_page_directory(std::string_view name) {
  constexpr std::string_view kPrefix = "hugepages-", kUnit = "kB";
  if (!name.starts_with(kPrefix) || !name.ends_with(kUnit)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  name.remove_suffix(std::min(kUnit.size(), name.size()));
  const auto kib = parse_u64(name);
  constexpr std::uint64_t kMaxKib = std::uint64_t{1} << 40;
  if (!kib || *kib == 0 || *kib > kMaxKib) return std::nullopt;
  return *kib * 1024;
}

}  // namespace umwelt::cgroup
