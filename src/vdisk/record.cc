// SPDX-License-Identifier: Apache-2.0
#include "vdisk/record.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/parse.h"
#include "container/json_fields.h"
#include "vdisk/loop.h"

namespace umwelt::vdisk {
namespace {

// trusted: nobody without CAP_SYS_ADMIN on the host sees or writes them.
constexpr char kRecordAttribute[] = "trusted.umwelt.vdisk";
constexpr char kLoopAttribute[] = "trusted.umwelt.loop";
constexpr std::size_t kMaxRecordBytes = 3072;  // one attribute block of ext4 has 4 KiB
constexpr std::size_t kMaxNameLength = 64;

constexpr std::array kKinds = {Kind::kOverlay, Kind::kClone, Kind::kVolume};
constexpr std::array kClasses = {Class::kThin, Class::kGuaranteed, Class::kScratch};

struct LimitField {
  const char* key;
  std::optional<std::uint64_t> IoLimits::*field;
};
constexpr LimitField kLimitFields[] = {{"read_bps", &IoLimits::read_bps},
                                       {"write_bps", &IoLimits::write_bps},
                                       {"read_iops", &IoLimits::read_iops},
                                       {"write_iops", &IoLimits::write_iops}};

template <class T, std::size_t N>
Result<T> from_name(const std::array<T, N>& values, const std::string& name) {
  for (const T value : values)
    if (name == name_of(value)) return value;
  return fail(EUCLEAN, "read a vdisk's record: unknown word " + name);
}

std::optional<std::string> read_attribute(int file, const char* name) {
  std::string value(kMaxRecordBytes, '\0');
  const ssize_t n = ::fgetxattr(file, name, value.data(), value.size());
  if (n < 0) return std::nullopt;
  value.resize(static_cast<std::size_t>(n));
  return value;
}

}  // namespace

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::kOverlay:
      return "overlay";
    case Kind::kClone:
      return "clone";
    case Kind::kVolume:
      return "volume";
  }
  return "";
}

nlohmann::json to_json(const Record& r) {
  nlohmann::json limits = nlohmann::json::object();
  for (const LimitField& f : kLimitFields)
    if (const auto& value = r.limits.*f.field) limits[f.key] = *value;
  return {{"id", r.id},
          {"kind", name_of(r.kind)},
          {"class", name_of(r.cls)},
          {"capacity_bytes", r.capacity_bytes},
          {"image", r.image},
          {"image_digest", r.image_digest},
          {"container", r.container},
          {"snapshot_of", r.snapshot_of},
          {"keep", r.keep},
          {"shared", r.shared},
          {"created_s", r.created_s},
          {"limits", limits}};
}

Result<Record> record_from_json(const nlohmann::json& json) try {
  Record r;
  r.id = json.at("id").get<std::string>();
  r.kind = UMWELT_TRY(from_name(kKinds, json.at("kind").get<std::string>()));
  r.cls = UMWELT_TRY(from_name(kClasses, json.at("class").get<std::string>()));
  bool numbers = container::read_field(json, "capacity_bytes", r.capacity_bytes) &&
                 container::read_field(json, "created_s", r.created_s);
  r.image = json.at("image").get<std::string>();
  r.image_digest = json.value("image_digest", "");
  r.container = json.value("container", "");
  r.snapshot_of = json.at("snapshot_of").get<std::string>();
  r.keep = json.at("keep").get<bool>();
  r.shared = json.at("shared").get<bool>();
  const nlohmann::json& limits = json.at("limits");
  for (const LimitField& f : kLimitFields)
    if (container::find_field(limits, f.key) != nullptr)
      numbers = container::read_field(limits, f.key, (r.limits.*f.field).emplace()) && numbers;
  if (!numbers) return fail(EUCLEAN, "read a vdisk's record: a number is none");
  if (r.capacity_bytes == 0 || r.capacity_bytes % kBlockBytes != 0 ||
      r.capacity_bytes > kMaxCapacityBytes)
    return fail(EUCLEAN, "read a vdisk's record: its capacity is impossible");
  return r;
} catch (const nlohmann::json::exception&) {
  return fail(EUCLEAN, "read a vdisk's record");
}

bool valid_name(std::string_view name) {
  if (name.starts_with(kVolumePrefix)) name.remove_prefix(kVolumePrefix.size());
  if (name.empty() || name.size() > kMaxNameLength) return false;
  const auto letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return letter(name[0]) && std::all_of(name.begin(), name.end(), [&](char c) {
           return letter(c) || c == '_' || c == '.' || c == '-';
         });
}

Result<void> check_name(const std::string& name) {
  if (valid_name(name)) return {};
  return fail(0, fmt::format("'{}' is no name of a vdisk: letters, digits, '_', '.' and '-', at "
                             "most 64, beginning with a letter or digit",
                             name.substr(0, 80)));
}

std::string random_id() {
  std::uint64_t number = 0;
  // 8 bytes are never short (getrandom(2)).
  while (::getrandom(&number, sizeof number, 0) < 0) {
  }
  return fmt::format("{:016x}", number);
}

Result<Record> read_record(int file) {
  const auto text = read_attribute(file, kRecordAttribute);
  if (!text) return fail(EUCLEAN, "read a vdisk's record");
  auto json = nlohmann::json::parse(*text, nullptr, false);
  if (json.is_discarded()) return fail(EUCLEAN, "read a vdisk's record");
  return record_from_json(json);
}

Result<void> write_record(int file, const Record& record) {
  const std::string text = to_json(record).dump();
  if (text.size() > kMaxRecordBytes) return fail(E2BIG, "write a vdisk's record");
  if (::fsetxattr(file, kRecordAttribute, text.data(), text.size(), 0) != 0)
    return fail_errno("write a vdisk's record");
  return {};
}

std::optional<unsigned> read_loop_hint(int file) {
  const auto text = read_attribute(file, kLoopAttribute);
  const auto number = text ? parse_u64(*text) : std::nullopt;
  if (!number || *number > ~0U) return std::nullopt;
  return static_cast<unsigned>(*number);
}

Result<void> write_loop_hint(int file, unsigned number) {
  const std::string text = std::to_string(number);
  if (::fsetxattr(file, kLoopAttribute, text.data(), text.size(), 0) != 0)
    return fail_errno("note a vdisk's loop device");
  return {};
}

}  // namespace umwelt::vdisk
