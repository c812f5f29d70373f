// SPDX-License-Identifier: Apache-2.0
// Unpacks any bytes as an archive; nothing may appear beside the target directory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "targets.h"
#include "vdisk/pack.h"

namespace {

namespace fs = std::filesystem;

struct Place {
  std::string root, target;
  Place() {
    char path[] = "/dev/shm/umwelt-fuzz.XXXXXX";
    FUZZ_CHECK(::mkdtemp(path) != nullptr);
    root = path;
    target = root + "/target";
    fs::create_directories(root + "/beside");
  }
  ~Place() {
    std::error_code error;
    fs::remove_all(root, error);
  }
  bool untouched() const {
    unsigned entries = 0;
    for (const auto& entry : fs::directory_iterator(root)) {
      ++entries;
      FUZZ_CHECK(entry.is_directory());
    }
    return entries == 2 && fs::is_empty(root + "/beside");
  }
};

}  // namespace

int fuzz_vdisk_archive(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  fs::create_directories(place.target);
  const umwelt::UniqueFd archive(::memfd_create("archive", MFD_CLOEXEC));
  FUZZ_CHECK(::write(archive.get(), data, size) == static_cast<ssize_t>(size));
  FUZZ_CHECK(::lseek(archive.get(), 0, SEEK_SET) == 0);
  const umwelt::UniqueFd target(::open(place.target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto writer = umwelt::vdisk::TreeWriter::open(target.get(), 0);
  FUZZ_CHECK(writer.has_value());
  if (umwelt::vdisk::unpack(archive.get(), *writer)) (void)writer->finish();
  std::error_code error;
  fs::remove_all(place.target, error);
  fs::create_directories(place.target);
  FUZZ_CHECK(place.untouched());
  return 0;
}
