// SPDX-License-Identifier: Apache-2.0
#include "vdisk/template.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "container/json_fields.h"
#include "vdisk/image_file.h"
#include "vdisk/loop.h"
#include "vdisk/mount_api.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20, kGiB = 1ULL << 30;
constexpr std::string_view kPrefix = "ext4-";  // of a template's file
constexpr char kMagic[] = "umwelt ext4 template 1\n";
// A larger one is for a terabyte and more, and is made again each time.
constexpr std::size_t kMaxCachedBytes = 16U << 20;
// Inode tables and journal are allocated on the host from the start, so they are kept at about 1 %.
constexpr unsigned kBytesPerInode = 32768, kInodeBytes = 256;
constexpr std::uint64_t kGroupBytes = 128 * kMiB;
// mke2fs's own configuration is not read: the same filesystem on every host.
constexpr char kFeatures[] =
    "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum";

unsigned journal_mib(std::uint64_t capacity_bytes) {
  if (capacity_bytes < 128 * kMiB) return 4;
  if (capacity_bytes < 512 * kMiB) return 8;
  if (capacity_bytes <= 2 * kGiB) return 16;
  return capacity_bytes <= 16 * kGiB ? 32 : 64;
}

// In memory and in no namespace, so that a kill leaves nothing.
Result<UniqueFd> make_content() {
  FsContext tmpfs = UMWELT_TRY(FsContext::open("tmpfs"));
  UMWELT_CHECK(tmpfs.set_string("mode", "0755"));
  UniqueFd root = UMWELT_TRY(tmpfs.mount(0));
  for (const char* name : {"upper", "work"})
    if (::mkdirat(root.get(), name, 0755) != 0) return fail_errno("mkdir");
  return root;
}

// Blocks with something in them; mkfs.ext4 also writes zeros.
Result<void> read_blocks(int file, Template& t) {
  const off_t size = static_cast<off_t>(t.capacity_bytes);
  std::string block(kBlockBytes, '\0');
  const std::string zeros(kBlockBytes, '\0');
  for (off_t at = 0; at < size;) {
    const off_t data = ::lseek(file, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return fail_errno("SEEK_DATA");
    const off_t hole = ::lseek(file, data, SEEK_HOLE);
    if (hole < 0) return fail_errno("SEEK_HOLE");
    for (at = data; at < hole; at += kBlockBytes) {
      if (::pread(file, block.data(), kBlockBytes, at) != static_cast<ssize_t>(kBlockBytes))
        return fail(EIO, "read the template");
      if (block == zeros) continue;
      const auto offset = static_cast<std::uint64_t>(at);
      if (!t.extents.empty() && t.extents.back().end() == offset)
        t.extents.back().size += kBlockBytes;
      else
        t.extents.push_back({offset, kBlockBytes});
      t.data += block;
    }
  }
  return {};
}

// FNV-1a over words: finds a damaged cache file, not a forged one.
std::uint64_t checksum(std::string_view bytes) {
  std::uint64_t sum = 0xcbf29ce484222325ULL ^ bytes.size();
  for (; !bytes.empty(); bytes.remove_prefix(std::min<std::size_t>(8, bytes.size()))) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), std::min<std::size_t>(8, bytes.size()));
    sum = (sum ^ word) * 0x100000001b3ULL;
    sum ^= sum >> 29;
  }
  return sum;
}

nlohmann::json to_json(const std::vector<Extent>& extents) {
  nlohmann::json list = nlohmann::json::array();
  for (const Extent& e : extents) list.push_back({e.offset, e.size});
  return list;
}

Result<std::vector<Extent>> extents_from(const nlohmann::json& json) {
  std::vector<Extent> extents;
  for (const auto& pair : json) {
    if (!pair.at(0).is_number_unsigned() || !pair.at(1).is_number_unsigned())
      return fail(EINVAL, "read extents");
    extents.push_back({pair.at(0).get<std::uint64_t>(), pair.at(1).get<std::uint64_t>()});
  }
  return extents;
}

bool inside(const std::vector<Extent>& extents, std::uint64_t capacity) {
  return std::all_of(extents.begin(), extents.end(), [capacity](const Extent& e) {
    return e.size > 0 && e.size <= capacity && e.offset <= capacity - e.size;
  });
}

}  // namespace

const char* name_of(Class c) {
  switch (c) {
    case Class::kThin:
      return "thin";
    case Class::kGuaranteed:
      return "guaranteed";
    case Class::kScratch:
      return "scratch";
  }
  return "";
}

std::uint64_t least_metadata_bytes(std::uint64_t capacity_bytes) {
  return capacity_bytes / kBytesPerInode * kInodeBytes +
         capacity_bytes / kGroupBytes * 2 * kBlockBytes;
}

Result<void> make_ext4(const std::string& path, std::uint64_t capacity_bytes, Class c,
                       const std::string& source, const std::function<void()>& tick) {
  std::string features = kFeatures;
  std::vector<std::string> arguments = {
      "mkfs.ext4", "-q", "-F", "-b", std::to_string(kBlockBytes), "-m", "0", "-I",
      std::to_string(kInodeBytes), "-i", std::to_string(kBytesPerInode),
      // The file is new, so nothing needs zeroing, neither now nor by the kernel's lazyinit
      // thread, which would make it grow.
      "-E", "nodiscard,assume_storage_prezeroed=1,packed_meta_blocks=1,root_owner=0:0", "-d",
      source};
  if (c != Class::kScratch) {
    features += ",has_journal";
    arguments.insert(arguments.end(), {"-J", fmt::format("size={}", journal_mib(capacity_bytes))});
  }
  arguments.insert(arguments.end(), {"-O", features, path});
  UMWELT_TRY(check_tool(std::move(arguments), {"MKE2FS_CONFIG=/dev/null"}, tick));
  return {};
}

std::uint64_t Template::metadata_bytes() const {
  std::uint64_t sum = 0;
  for (const Extent& e : metadata) sum += e.size;
  return sum;
}

Result<Template> make_template(std::uint64_t capacity_bytes, Class c) {
  if (capacity_bytes < kMinCapacityBytes || capacity_bytes > kMaxCapacityBytes)
    return fail(EINVAL,
                fmt::format("a capacity of {} bytes is not between {} MiB and {} TiB",
                            capacity_bytes, kMinCapacityBytes / kMiB, kMaxCapacityBytes >> 40));
  UniqueFd file(::memfd_create("umwelt-template", MFD_CLOEXEC));
  if (!file) return fail_errno("memfd_create");
  if (::ftruncate(file.get(), static_cast<off_t>(capacity_bytes)) != 0)
    return fail_errno("ftruncate a template");
  const UniqueFd content = UMWELT_TRY(make_content());
  UMWELT_CHECK(make_ext4(path_of(file.get()), capacity_bytes, c, path_of(content.get())));
  Template t;
  t.capacity_bytes = capacity_bytes;
  UMWELT_CHECK(read_blocks(file.get(), t));
  const Superblock superblock = UMWELT_TRY(read_superblock(file.get()));
  t.free_bytes = superblock.free_blocks * superblock.block_bytes;
  t.metadata = join(UMWELT_TRY(read_used_blocks(file.get(), superblock)), kReserveGap);
  return t;
}

// Magic line, checksum of all the rest, a line of JSON, the data.
std::string serialize(const Template& t) {
  const nlohmann::json header = {{"capacity", t.capacity_bytes},
                                 {"free", t.free_bytes},
                                 {"extents", to_json(t.extents)},
                                 {"metadata", to_json(t.metadata)}};
  const std::string rest = header.dump() + "\n" + t.data;
  return fmt::format("{}{:016x}\n", kMagic, checksum(rest)) + rest;
}

Result<Template> deserialize(const std::string& bytes) {
  const tl::unexpected<Error> damaged = fail(EUCLEAN, "read a template");
  const std::size_t rest = sizeof(kMagic) - 1 + 17;
  const std::size_t end = bytes.find('\n', rest);
  if (bytes.size() < rest || end == std::string::npos) return damaged;
  const std::string start =
      fmt::format("{}{:016x}\n", kMagic, checksum(std::string_view(bytes).substr(rest)));
  if (!bytes.starts_with(start)) return damaged;
  Template t;
  try {
    const auto header = nlohmann::json::parse(bytes.begin() + static_cast<std::ptrdiff_t>(rest),
                                              bytes.begin() + static_cast<std::ptrdiff_t>(end));
    auto extents = extents_from(header.at("extents"));
    auto metadata = extents_from(header.at("metadata"));
    if (!extents || !metadata || !container::read_field(header, "capacity", t.capacity_bytes) ||
        !container::read_field(header, "free", t.free_bytes))
      return damaged;
    t.extents = *std::move(extents);
    t.metadata = *std::move(metadata);
  } catch (const nlohmann::json::exception&) {
    return damaged;
  }
  t.data = bytes.substr(end + 1);
  if (!inside(t.extents, t.capacity_bytes) || !inside(t.metadata, t.capacity_bytes)) return damaged;
  std::uint64_t size = 0;
  for (const Extent& e : t.extents) size += e.size;
  if (size != t.data.size()) return damaged;
  return t;
}

// The maker's own file stands for its version: asking it costs more than creating a vdisk.
Result<std::string> Templates::ending() {
  const std::string tool = UMWELT_TRY(find_tool("mkfs.ext4"));
  struct stat status {};
  if (::stat(tool.c_str(), &status) != 0) return fail_errno("stat " + tool);
  return fmt::format("-{:x}-{:x}", status.st_size, status.st_mtime);
}

Result<std::shared_ptr<const Template>> Templates::get(std::uint64_t capacity_bytes, Class c) {
  const std::string wanted =
      fmt::format("{}{}-{}{}", kPrefix, capacity_bytes,
                  c == Class::kScratch ? "nojournal" : "journal", UMWELT_TRY(ending()));
  const std::lock_guard lock(mutex_);
  for (const Entry& e : entries_)
    if (e.key == wanted) return e.value;
  const std::string path = directory_ + "/" + wanted;
  std::shared_ptr<const Template> value;
  if (auto bytes = read_file(path, 2 * kMaxCachedBytes)) {
    if (auto cached = deserialize(*bytes); cached && cached->capacity_bytes == capacity_bytes)
      value = std::make_shared<const Template>(std::move(*cached));
  }
  if (!value) {
    value = std::make_shared<const Template>(UMWELT_TRY(make_template(capacity_bytes, c)));
    if (value->data.size() > kMaxCachedBytes) return value;
    // It is as good without the file.
    if (make_directories(directory_, 0700)) (void)replace_file(path, serialize(*value), 0600);
  }
  entries_.push_back({wanted, value});
  return value;
}

Result<void> Templates::tidy() const {
  const auto directory = open_at(AT_FDCWD, directory_, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!directory)
    return directory.error().code == ENOENT ? Result<void>() : fail(directory.error());
  const std::string current = UMWELT_TRY(ending());
  for (const std::string& name : UMWELT_TRY(read_names(directory->get())))
    if (name.starts_with(kPrefix) &&
        (!name.ends_with(current) || unused_for_long(directory->get(), name)))
      ::unlinkat(directory->get(), name.c_str(), 0);
  return {};
}

}  // namespace umwelt::vdisk
