// SPDX-License-Identifier: Apache-2.0
// What files of the store say of themselves: superblocks, templates, records, descriptions of
// images, and the configuration.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <string>

#include "targets.h"
#include "vdisk/ext4.h"
#include "vdisk/image.h"
#include "vdisk/record.h"
#include "vdisk/settings.h"
#include "vdisk/template.h"

int fuzz_vdisk_headers(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt::vdisk;
  const std::string text(umwelt::fuzz::text_of(data, size));
  (void)deserialize(text);
  (void)parse_settings(text, "umwelt.toml");
  (void)valid_name(text);
  (void)image_name_of(text);
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_discarded()) {
    if (const auto record = record_from_json(json))
      FUZZ_CHECK(record_from_json(to_json(*record)).has_value());
    if (const auto image = image_from_json(json))
      FUZZ_CHECK(image_from_json(to_json(*image)).has_value());
  }
  const umwelt::UniqueFd file(::memfd_create("ext4", MFD_CLOEXEC));
  FUZZ_CHECK(::pwrite(file.get(), data, size, 1024) == static_cast<ssize_t>(size));
  const auto superblock = read_superblock(file.get());
  if (!superblock || superblock->groups() > 4096) return 0;
  FUZZ_CHECK(superblock->overhead_blocks() <= superblock->blocks);
  (void)read_used_blocks(file.get(), *superblock);
  (void)read_metadata_blocks(file.get(), *superblock);
  return 0;
}
