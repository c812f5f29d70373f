// SPDX-License-Identifier: Apache-2.0
// Feeds each target its corpus: every file as it is, cut off at every place, and with single bytes
// changed. UMWELT_FUZZ_TARGET names the target and UMWELT_FUZZ_NAME its corpus folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

int UMWELT_FUZZ_TARGET(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxVariants = 150;  // of a file, so that long files do not take long

std::vector<std::filesystem::path> corpus() {
  const char* root = std::getenv("UMWELT_SOURCE_ROOT");
  std::vector<std::filesystem::path> files;
  const auto folder =
      std::filesystem::path(root != nullptr ? root : ".") / "tests/fuzz/corpus" / UMWELT_FUZZ_NAME;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// A copy on the heap of exactly this size, so that a sanitizer sees a read past the end.
void feed(const std::string& bytes) {
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  UMWELT_FUZZ_TARGET(exact.data(), exact.size());
}

TEST(Corpus, HasFiles) { EXPECT_FALSE(corpus().empty()); }

TEST(Corpus, Empty) { feed(""); }

TEST(Corpus, AsItIsCutOffAndChanged) {
  for (const auto& path : corpus()) {
    SCOPED_TRACE(path.filename().string());
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    feed(bytes);
    const std::size_t step = std::max<std::size_t>(1, bytes.size() / kMaxVariants);
    for (std::size_t i = 0; i < bytes.size(); i += step) {
      feed(bytes.substr(0, i));
      for (const char other : {'\0', '\n', ' ', '9', '-', '\xff'}) {
        std::string changed = bytes;
        changed[i] = other;
        feed(changed);
      }
    }
  }
}

}  // namespace
