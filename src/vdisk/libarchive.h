// SPDX-License-Identifier: Apache-2.0
// The functions of libarchive that are used: archive_read(3), archive_write(3), archive_entry(3).
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include "vdisk/late_library.h"

namespace umwelt::vdisk {

struct LibArchive : LateLibrary {
  LibArchive() : LateLibrary("libarchive.so.13") {}

  UMWELT_LATE(archive_entry_filetype);
  UMWELT_LATE(archive_entry_free);
  UMWELT_LATE(archive_entry_gid);
  UMWELT_LATE(archive_entry_hardlink);
  UMWELT_LATE(archive_entry_linkify);
  UMWELT_LATE(archive_entry_linkresolver_free);
  UMWELT_LATE(archive_entry_linkresolver_new);
  UMWELT_LATE(archive_entry_linkresolver_set_strategy);
  UMWELT_LATE(archive_entry_mtime);
  UMWELT_LATE(archive_entry_mtime_nsec);
  UMWELT_LATE(archive_entry_new);
  UMWELT_LATE(archive_entry_pathname);
  UMWELT_LATE(archive_entry_perm);
  UMWELT_LATE(archive_entry_rdev);
  UMWELT_LATE(archive_entry_size);
  UMWELT_LATE(archive_entry_sourcepath);
  UMWELT_LATE(archive_entry_symlink);
  UMWELT_LATE(archive_entry_uid);
  UMWELT_LATE(archive_entry_unset_atime);
  UMWELT_LATE(archive_entry_unset_birthtime);
  UMWELT_LATE(archive_entry_unset_ctime);
  UMWELT_LATE(archive_entry_xattr_next);
  UMWELT_LATE(archive_entry_xattr_reset);
  UMWELT_LATE(archive_errno);
  UMWELT_LATE(archive_error_string);
  UMWELT_LATE(archive_filter_bytes);
  UMWELT_LATE(archive_format);
  UMWELT_LATE(archive_read_data_block);
  UMWELT_LATE(archive_read_disk_descend);
  UMWELT_LATE(archive_read_disk_new);
  UMWELT_LATE(archive_read_disk_open);
  UMWELT_LATE(archive_read_disk_set_symlink_physical);
  UMWELT_LATE(archive_read_free);
  UMWELT_LATE(archive_read_new);
  UMWELT_LATE(archive_read_next_header);
  UMWELT_LATE(archive_read_next_header2);
  UMWELT_LATE(archive_read_open_fd);
  UMWELT_LATE(archive_read_support_filter_bzip2);
  UMWELT_LATE(archive_read_support_filter_gzip);
  UMWELT_LATE(archive_read_support_filter_lz4);
  UMWELT_LATE(archive_read_support_filter_xz);
  UMWELT_LATE(archive_read_support_filter_zstd);
  UMWELT_LATE(archive_read_support_format_tar);
  UMWELT_LATE(archive_write_close);
  UMWELT_LATE(archive_write_data);
  UMWELT_LATE(archive_write_free);
  UMWELT_LATE(archive_write_header);
  UMWELT_LATE(archive_write_new);
  UMWELT_LATE(archive_write_open_fd);
  UMWELT_LATE(archive_write_set_format_pax);
};

// Thread-safe. Loaded at the first call.
const LibArchive& libarchive();

}  // namespace umwelt::vdisk
