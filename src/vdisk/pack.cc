// SPDX-License-Identifier: Apache-2.0
#include "vdisk/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <locale.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "base/file.h"

static_assert(ARCHIVE_ENTRY_ACL_READ == ACL_READ && ARCHIVE_ENTRY_ACL_WRITE == ACL_WRITE &&
              ARCHIVE_ENTRY_ACL_EXECUTE == ACL_EXECUTE);

namespace umwelt::vdisk {
namespace {

constexpr std::size_t kReadBytes = 256U << 10;

struct FreeReader {
  void operator()(archive* a) const { archive_read_free(a); }
};
struct FreeWriter {
  void operator()(archive* a) const { archive_write_free(a); }
};
struct FreeEntry {
  void operator()(archive_entry* e) const { archive_entry_free(e); }
};
struct FreeResolver {
  void operator()(archive_entry_linkresolver* r) const { archive_entry_linkresolver_free(r); }
};
using Reader = std::unique_ptr<archive, FreeReader>;
using Writer = std::unique_ptr<archive, FreeWriter>;

// libarchive turns names into the locale's charset; in UTF-8 they stay as they are.
class Utf8Locale {
 public:
  Utf8Locale() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (locale_ != nullptr) before_ = ::uselocale(locale_);
  }
  ~Utf8Locale() {
    if (locale_ == nullptr) return;
    ::uselocale(before_);
    ::freelocale(locale_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  locale_t locale_ = nullptr, before_ = nullptr;
};

std::string text_of(const char* text) { return text == nullptr ? std::string() : text; }

tl::unexpected<Error> bad_archive(archive* a) {
  std::string text = text_of(archive_error_string(a));
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  return fail(0, fmt::format("not a good tar archive: {}", text.empty() ? "unreadable" : text));
}

// libarchive's own errors are -1, and EILSEQ for what its format can't hold; they say nothing
// without its text.
tl::unexpected<Error> failed(archive* a, const std::string& what) {
  const int code = archive_errno(a);
  if (code > 0 && code != EILSEQ) return fail(code, what);
  return fail(0, fmt::format("{}: {}", what, text_of(archive_error_string(a))));
}

std::optional<TreeEntry::Type> type_of(archive_entry* e) {
  using Type = TreeEntry::Type;
  if (archive_entry_hardlink(e) != nullptr) return Type::kHardLink;
  switch (archive_entry_filetype(e)) {
    case AE_IFREG:
      return Type::kFile;
    case AE_IFDIR:
      return Type::kDirectory;
    case AE_IFLNK:
      return Type::kSymlink;
    case AE_IFCHR:
      return Type::kCharacter;
    case AE_IFBLK:
      return Type::kBlock;
    case AE_IFIFO:
      return Type::kFifo;
    default:
      return std::nullopt;
  }
}

std::uint16_t acl_tag(int tag) {
  switch (tag) {
    case ARCHIVE_ENTRY_ACL_USER_OBJ:
      return ACL_USER_OBJ;
    case ARCHIVE_ENTRY_ACL_USER:
      return ACL_USER;
    case ARCHIVE_ENTRY_ACL_GROUP_OBJ:
      return ACL_GROUP_OBJ;
    case ARCHIVE_ENTRY_ACL_GROUP:
      return ACL_GROUP;
    case ARCHIVE_ENTRY_ACL_MASK:
      return ACL_MASK;
    default:
      return ACL_OTHER;
  }
}

// What the archive has as text (SCHILY.acl.*) as the attribute that the kernel takes, with rows in
// the order of their tags; one that is there as the attribute counts.
Result<void> add_acl(archive_entry* e, int wanted, const char* attribute, TreeEntry& entry) {
  if (archive_entry_acl_reset(e, wanted) == 0) return {};
  for (const auto& [name, value] : entry.xattrs)
    if (name == attribute) return {};
  std::vector<posix_acl_xattr_entry> rows;
  int type = 0, permissions = 0, tag = 0, id = 0;
  const char* name = nullptr;
  while (archive_entry_acl_next(e, wanted, &type, &permissions, &tag, &id, &name) == ARCHIVE_OK) {
    const bool named = tag == ARCHIVE_ENTRY_ACL_USER || tag == ARCHIVE_ENTRY_ACL_GROUP;
    // GNU tar writes names alone; whose number one is in the image is not known.
    if (named && id < 0)
      return fail(0,
                  "an archive entry has an ACL with names and no numbers: make the archive with "
                  "tar --xattrs --xattrs-include=*");
    rows.push_back({acl_tag(tag), static_cast<std::uint16_t>(permissions),
                    named ? static_cast<std::uint32_t>(id) : ~0U});
  }
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return std::pair(a.e_tag, a.e_id) < std::pair(b.e_tag, b.e_id);
  });
  const posix_acl_xattr_header header{POSIX_ACL_XATTR_VERSION};
  std::string value(reinterpret_cast<const char*>(&header), sizeof header);
  value.append(reinterpret_cast<const char*>(rows.data()), rows.size() * sizeof rows[0]);
  entry.xattrs.emplace_back(attribute, std::move(value));
  return {};
}

Result<TreeEntry> entry_of(archive_entry* e, TreeEntry::Type type) {
  TreeEntry entry;
  entry.type = type;
  entry.path = text_of(archive_entry_pathname(e));
  if (entry.path.empty()) return fail(0, "an archive entry has no name that can be read");
  entry.target = text_of(type == TreeEntry::Type::kHardLink ? archive_entry_hardlink(e)
                                                            : archive_entry_symlink(e));
  entry.mode = archive_entry_perm(e);
  const la_int64_t uid = archive_entry_uid(e), gid = archive_entry_gid(e);
  constexpr la_int64_t kMaxId = 0xFFFFFFFELL;
  if (uid < 0 || uid > kMaxId || gid < 0 || gid > kMaxId)
    return fail(0, "an archive entry has an impossible owner");
  entry.uid = static_cast<uid_t>(uid);
  entry.gid = static_cast<gid_t>(gid);
  // What a filesystem can't store becomes what it can.
  entry.mtime.tv_sec = std::clamp<time_t>(archive_entry_mtime(e), 0, 0xFFFFFFFFLL);
  entry.mtime.tv_nsec = std::clamp<long>(archive_entry_mtime_nsec(e), 0, 999999999);
  entry.device = archive_entry_rdev(e);
  if (const la_int64_t size = archive_entry_size(e); type == TreeEntry::Type::kFile) {
    if (size < 0) return fail(0, "an archive entry has an impossible size");
    entry.size_bytes = static_cast<std::uint64_t>(size);
  }
  archive_entry_xattr_reset(e);
  const char* name = nullptr;
  const void* value = nullptr;
  std::size_t size = 0;
  while (archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK)
    if (name != nullptr)
      entry.xattrs.emplace_back(name, std::string(static_cast<const char*>(value), size));
  UMWELT_CHECK(add_acl(e, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, "system.posix_acl_access", entry));
  UMWELT_CHECK(add_acl(e, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, "system.posix_acl_default", entry));
  return entry;
}

class Unpacker {
 public:
  Unpacker(archive* a, TreeWriter& writer, const ArchiveProgress& progress, std::uint64_t total)
      : archive_(a), writer_(writer), progress_(progress), total_bytes_(total) {}

  Result<void> run() {
    for (;;) {
      archive_entry* e = nullptr;
      const int code = archive_read_next_header(archive_, &e);
      if (code == ARCHIVE_EOF) break;
      if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return bad_archive(archive_);
      tell();
      const auto type = type_of(e);
      if (!type) continue;
      const TreeEntry entry = UMWELT_TRY(entry_of(e, *type));
      UniqueFd file = UMWELT_TRY(writer_.add(entry));
      if (file) UMWELT_CHECK(copy(file.get(), entry));
    }
    return {};
  }

 private:
  Result<void> copy(int file, const TreeEntry& entry) {
    for (;;) {
      const void* data = nullptr;
      std::size_t size = 0;
      la_int64_t offset = 0;
      const int code = archive_read_data_block(archive_, &data, &size, &offset);
      if (code == ARCHIVE_EOF) break;
      if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return bad_archive(archive_);
      if (offset < 0) return fail(0, "an archive entry has an impossible offset");
      UMWELT_CHECK(writer_.write_at(file, entry, data, size, static_cast<std::uint64_t>(offset)));
      tell();
    }
    return writer_.finish_file(file, entry);
  }

  void tell() {
    if (progress_)
      progress_(static_cast<std::uint64_t>(archive_filter_bytes(archive_, -1)), total_bytes_);
  }

  archive* archive_;
  TreeWriter& writer_;
  const ArchiveProgress& progress_;
  std::uint64_t total_bytes_;
};

Result<void> copy_content(archive* writer, archive_entry* e, int directory) {
  if (archive_entry_filetype(e) != AE_IFREG || archive_entry_size(e) == 0) return {};
  const UniqueFd file = UMWELT_TRY(
      open_at(directory, archive_entry_sourcepath(e), O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  std::string buffer(kReadBytes, '\0');
  for (;;) {
    const ssize_t n = ::read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno("read a file of the image");
    if (n == 0) return {};
    if (archive_write_data(writer, buffer.data(), static_cast<std::size_t>(n)) < 0)
      return failed(writer, "write the archive");
  }
}

Result<void> write_entry(archive* writer, archive_entry* e, int directory) {
  if (e == nullptr) return {};
  const int code = archive_write_header(writer, e);
  if (code != ARCHIVE_OK && code != ARCHIVE_WARN) return failed(writer, "write the archive");
  return copy_content(writer, e, directory);
}

}  // namespace

Result<void> unpack(int file, TreeWriter& writer, const ArchiveProgress& progress) {
  const Utf8Locale locale;
  const Reader reader(archive_read_new());
  if (!reader) return fail(ENOMEM, "read an archive");
  archive* a = reader.get();
  // Not filter_all, which runs programs for some formats.
  archive_read_support_filter_gzip(a);
  archive_read_support_filter_bzip2(a);
  archive_read_support_filter_xz(a);
  archive_read_support_filter_zstd(a);
  archive_read_support_filter_lz4(a);
  archive_read_support_format_tar(a);
  struct stat status {};
  if (::fstat(file, &status) != 0) return fail_errno("fstat an archive");
  const auto total = S_ISREG(status.st_mode) ? static_cast<std::uint64_t>(status.st_size) : 0;
  if (archive_read_open_fd(a, file, kReadBytes) != ARCHIVE_OK) return bad_archive(a);
  return Unpacker(a, writer, progress, total).run();
}

Result<void> pack(int directory, int file, const ArchiveProgress& progress) {
  const Utf8Locale locale;
  const Reader disk(archive_read_disk_new());
  const Writer writer(archive_write_new());
  const std::unique_ptr<archive_entry_linkresolver, FreeResolver> links(
      archive_entry_linkresolver_new());
  if (!disk || !writer || !links) return fail(ENOMEM, "write an archive");
  archive_read_disk_set_symlink_physical(disk.get());
  archive_write_set_format_pax(writer.get());
  archive_entry_linkresolver_set_strategy(links.get(), archive_format(writer.get()));
  if (archive_write_open_fd(writer.get(), file) != ARCHIVE_OK)
    return failed(writer.get(), "write the archive");
  // Names in the archive are relative, and so is what is read.
  const UniqueFd before = UMWELT_TRY(open_at(AT_FDCWD, ".", O_PATH | O_DIRECTORY));
  if (::fchdir(directory) != 0) return fail_errno("enter the image");
  Result<void> result;
  if (archive_read_disk_open(disk.get(), ".") != ARCHIVE_OK)
    result = failed(disk.get(), "read the image");
  while (result) {
    std::unique_ptr<archive_entry, FreeEntry> entry(archive_entry_new());
    const int code = archive_read_next_header2(disk.get(), entry.get());
    if (code == ARCHIVE_EOF) break;
    if (code != ARCHIVE_OK && code != ARCHIVE_WARN) {
      result = failed(disk.get(), "read the image");
      break;
    }
    archive_read_disk_descend(disk.get());
    // tar knows none, and one is worth nothing without the process that listens on it.
    if (archive_entry_filetype(entry.get()) == AE_IFSOCK) continue;
    // The same content gives the same archive.
    archive_entry_unset_atime(entry.get());
    archive_entry_unset_ctime(entry.get());
    archive_entry_unset_birthtime(entry.get());
    archive_entry *first = entry.release(), *second = nullptr;
    archive_entry_linkify(links.get(), &first, &second);
    const std::unique_ptr<archive_entry, FreeEntry> one(first), other(second);
    result = write_entry(writer.get(), first, directory);
    if (result) result = write_entry(writer.get(), second, directory);
    if (progress) progress(static_cast<std::uint64_t>(archive_filter_bytes(writer.get(), -1)), 0);
  }
  if (::fchdir(before.get()) != 0 && result) result = fail_errno("leave the image");
  if (result && archive_write_close(writer.get()) != ARCHIVE_OK)
    result = failed(writer.get(), "write the archive");
  return result;
}

}  // namespace umwelt::vdisk
