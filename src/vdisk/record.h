// SPDX-License-Identifier: Apache-2.0
// What is known of a vdisk. It is kept as JSON in an extended attribute of the vdisk's own file, so
// file and record appear, move and go in one step.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "vdisk/template.h"

namespace umwelt::vdisk {

enum class Kind {
  kOverlay,  // upper/ and work/ over an image
  kClone,    // a whole root filesystem
  kVolume,   // upper/ is the volume's root
};
const char* name_of(Kind kind);  // "overlay", "clone", "volume"

// Bytes and operations a second; nullopt: no limit.
struct IoLimits {
  std::optional<std::uint64_t> read_bps, write_bps, read_iops, write_iops;
  bool any() const { return read_bps || write_bps || read_iops || write_iops; }
  friend bool operator==(const IoLimits&, const IoLimits&) = default;
};

struct Record {
  std::string id;  // 16 hexadecimal digits; its loop device is named after it
  Kind kind = Kind::kOverlay;
  Class cls = Class::kThin;
  std::uint64_t capacity_bytes = 0;
  std::string image;           // of an overlay or a clone; "" where it is a plain directory
  std::string image_digest;    // of the image's content that an overlay lies on
  std::string container;       // that has it as its root filesystem, or had it last
  std::string snapshot_of;     // the vdisk it was taken of: read-only; "" for all others
  bool keep = true;            // false: goes with its container
  bool shared = false;         // several containers may use it at once
  std::int64_t created_s = 0;  // since the epoch
  IoLimits limits;
};

nlohmann::json to_json(const Record& record);
Result<Record> record_from_json(const nlohmann::json& json);  // EUCLEAN

// "web-1", or "volume:data" for a volume: [a-zA-Z0-9][a-zA-Z0-9_.-]{0,63} after the prefix.
bool valid_name(std::string_view name);
Result<void> check_name(const std::string& name);  // a sentence (code 0) that says so
inline constexpr std::string_view kVolumePrefix = "volume:";

std::string random_id();

// The record of the file open as `file`. EUCLEAN: it has none, or one that is damaged.
Result<Record> read_record(int file);
Result<void> write_record(int file, const Record& record);

// The loop device that the file was last attached to: a hint that must be verified.
std::optional<unsigned> read_loop_hint(int file);
Result<void> write_loop_hint(int file, unsigned number);

}  // namespace umwelt::vdisk
