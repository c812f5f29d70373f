// SPDX-License-Identifier: Apache-2.0
// Images: what goes in comes out, is stored once, shared, checked; and archives of somebody who
// means harm stay where they belong.
#include "vdisk/image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/file.h"
#include "host.h"
#include "vdisk/ext4.h"
#include "vdisk/pack.h"
#include "vdisk/template.h"
#include "vdisk/tool.h"
#include "vdisk/tree_writer.h"

namespace umwelt::vdisk {
namespace {

namespace fs = std::filesystem;
using test::shell;

// --- tar by hand: libarchive would not write what an attacker does
// --------------------------------

struct TarEntry {
  char type = '0';
  std::string path = {}, target = {}, data = {};
  std::uint64_t size = ~0ULL;  // ~0: of data
  unsigned mode = 0644;
};

void put_octal(std::string& header, std::size_t at, std::size_t width, std::uint64_t value) {
  if (value >= 1ULL << (3 * (width - 1))) {  // base-256
    header[at] = static_cast<char>(0x80);
    for (std::size_t i = 0; i < 8; ++i)
      header[at + width - 1 - i] = static_cast<char>(value >> (8 * i));
    return;
  }
  for (std::size_t i = width - 1; i-- > 0; value >>= 3)
    header[at + i] = static_cast<char>('0' + (value & 7));
}

std::string tar_entry(const TarEntry& e) {
  std::string h(512, '\0');
  e.path.copy(h.data(), 100);
  put_octal(h, 100, 8, e.mode);
  put_octal(h, 108, 8, 0);
  put_octal(h, 116, 8, 0);
  put_octal(h, 124, 12, e.size == ~0ULL ? e.data.size() : e.size);
  put_octal(h, 136, 12, 1700000000);
  h[156] = e.type;
  e.target.copy(h.data() + 157, 100);
  h.replace(257, 8,
            std::string("ustar\0"
                        "00",
                        8));
  put_octal(h, 329, 8, 1);
  put_octal(h, 337, 8, 3);
  unsigned sum = 8 * ' ';
  for (std::size_t i = 0; i < 512; ++i)
    if (i < 148 || i >= 156) sum += static_cast<unsigned char>(h[i]);
  put_octal(h, 148, 7, sum);
  h += e.data;
  h.resize((h.size() + 511) / 512 * 512);
  return h;
}

std::string tar(const std::vector<TarEntry>& entries) {
  std::string out;
  for (const TarEntry& e : entries) out += tar_entry(e);
  return out + std::string(1024, '\0');
}

UniqueFd memory_file(const std::string& bytes) {
  UniqueFd file(::memfd_create("archive", MFD_CLOEXEC));
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  return file;
}

std::string make_directory(const std::string& name) {
  const std::string path = test::scratch_directory() + "/" + name;
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

Result<void> unpack_to(const std::string& path, const std::string& bytes) {
  const UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto writer = TreeWriter::open(directory.get(), 0);
  EXPECT_TRUE(writer);
  const UniqueFd archive = memory_file(bytes);
  UMWELT_CHECK(unpack(archive.get(), *writer));
  return writer->finish();
}

TEST(Unpack, RefusesPathsThatLeaveWithASentence) {
  const std::string path = make_directory("target");
  for (const char* bad : {"../evil", "a/../../evil", "/etc/evil", "..", "a/.."}) {
    const auto result = unpack_to(path, tar({{.path = bad, .data = "x"}}));
    ASSERT_FALSE(result) << bad;
    EXPECT_EQ(result.error().code, 0);
    EXPECT_NE(result.error().text.find(bad), std::string::npos) << result.error().text;
  }
  EXPECT_TRUE(fs::is_empty(path));
}

TEST(Unpack, SymlinksAreFollowedInsideOnly) {
  const std::string path = make_directory("target"), outside = make_directory("outside");
  // As in an image: /lib -> /usr/lib.
  ASSERT_TRUE(unpack_to(path, tar({{.type = '5', .path = "usr/lib", .mode = 0755},
                                   {.type = '2', .path = "lib", .target = "/usr/lib"},
                                   {.path = "lib/x", .data = "in"}})));
  EXPECT_EQ(*read_file(path + "/usr/lib/x"), "in");
  const auto evil = unpack_to(path, tar({{.type = '2', .path = "out", .target = outside},
                                         {.path = "out/evil", .data = "x"}}));
  ASSERT_FALSE(evil);
  EXPECT_EQ(evil.error().code, 0) << evil.error().message();
  for (const char* up : {"../../../../../../../../tmp", "../outside"})
    (void)unpack_to(
        path, tar({{.type = '2', .path = "up", .target = up}, {.path = "up/evil", .data = "x"}}));
  EXPECT_TRUE(fs::is_empty(outside));
  EXPECT_FALSE(fs::exists("/tmp/evil"));
}

TEST(Unpack, HardLinksAndWhiteoutsStayInside) {
  const std::string path = make_directory("target"), outside = make_directory("outside");
  std::ofstream(outside + "/secret") << "secret";
  EXPECT_FALSE(unpack_to(path, tar({{.type = '1', .path = "l", .target = "../outside/secret"}})));
  EXPECT_FALSE(unpack_to(path, tar({{.type = '1', .path = "l", .target = outside + "/secret"}})));
  EXPECT_FALSE(unpack_to(path, tar({{.type = '2', .path = "out", .target = outside},
                                    {.type = '1', .path = "l", .target = "out/secret"}})));
  for (const char* name : {".wh...", ".wh..", ".wh."})
    EXPECT_FALSE(unpack_to(path, tar({{.path = name}}))) << name;
  (void)unpack_to(path, tar({{.type = '2', .path = "o2", .target = outside},
                             {.path = "o2/.wh.secret"},
                             {.path = "o2/.wh..wh..opq"}}));
  EXPECT_EQ(*read_file(outside + "/secret"), "secret");
}

TEST(Unpack, ImpossibleSizes) {
  const std::string path = make_directory("target");
  for (const std::uint64_t size : {1ULL << 60, 1ULL << 41, ~0ULL >> 1}) {
    const auto result = unpack_to(path, tar({{.path = "big", .data = "x", .size = size}}));
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, 0) << result.error().message();
  }
  // One that is possible, of an archive that is cut off.
  EXPECT_FALSE(unpack_to(path, tar({{.path = "big", .data = "x", .size = 1ULL << 30}})));
  EXPECT_FALSE(unpack_to(path, "this is no archive, however long it may be"));
  EXPECT_FALSE(unpack_to(path, ""));
}

TEST(Unpack, DeepNestingThroughSymlinksIsRefused) {
  const std::string path = make_directory("target");
  std::vector<TarEntry> entries;
  std::string deep = "d";
  for (int i = 0; i < 40; ++i) deep += "/d";
  entries.push_back({.type = '5', .path = deep, .mode = 0755});
  std::string previous = deep;
  for (int i = 0; i < 20; ++i) {
    const std::string link = "s" + std::to_string(i);
    entries.push_back({.type = '2', .path = link, .target = previous});
    entries.push_back({.type = '5', .path = link + "/" + deep.substr(0, 60), .mode = 0755});
    previous = link + "/" + deep.substr(0, 60);
  }
  const auto result = unpack_to(path, tar(entries));
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().text.find("too deep"), std::string::npos) << result.error().message();
}

// Every combination that a few bad habits make; what matters is what is outside afterwards.
TEST(Unpack, TenThousandHostileArchives) {
  const auto host = test::HostFilesystem::make("tmpfs", 0);
  const std::string root = host->path() + "/fuzz";
  const std::string target = root + "/target", outside = root + "/outside";
  fs::create_directories(outside + "/dir");
  std::ofstream(outside + "/file") << "untouched";
  const auto stamp = [&] {
    std::string text;
    EXPECT_EQ(
        shell("cd " + root +
                  " && find . -mindepth 1 -path ./target -prune -o -printf '%p %y %m %U %s %C@\\n'"
                  " -type f -exec sha256sum {} + | sort",
              &text),
        0);
    return text;
  };
  const std::string before = stamp();
  const char* words[] = {"a",     "b",  "..", ".", "",        "c",    ".wh.a", ".wh..wh..opq",
                         ".wh..", "..", "/",  "a", "outside", "file", "dir"};
  const std::string targets[] = {
      "..",   "../..", "/",          outside,           outside + "/file",   "a",
      "b/..", ".",     "../outside", "../outside/file", "../../outside/dir", "a/b/c",
      ""};
  const char types[] = {'0', '1', '2', '3', '4', '5', '6', '7', 'x', 'g', 'L', 'K', 'S'};
  std::mt19937 random(20160401);
  const auto pick = [&random](std::size_t n) { return random() % n; };
  unsigned good = 0;
  for (unsigned round = 0; round < 10000; ++round) {
    fs::create_directories(target);
    std::vector<TarEntry> entries(1 + pick(8));
    for (TarEntry& e : entries) {
      e.type = pick(4) != 0 ? types[pick(6)] : types[pick(std::size(types))];
      for (std::size_t i = 1 + pick(4); i-- > 0;)
        e.path += std::string(words[pick(std::size(words))]) + (i > 0 ? "/" : "");
      e.target = targets[pick(std::size(targets))];
      if (e.type == '0') e.data.assign(pick(2000), 'x');
      if (pick(30) == 0) e.size = 1ULL << pick(63);
      e.mode = static_cast<unsigned>(pick(010000));
    }
    std::string bytes = tar(entries);
    if (pick(3) == 0)
      for (std::size_t i = 1 + pick(8); i-- > 0;)
        bytes[pick(bytes.size())] = static_cast<char>(random());
    if (pick(10) == 0) bytes.resize(pick(bytes.size()));
    good += unpack_to(target, bytes).has_value();
    fs::remove_all(target);
  }
  EXPECT_EQ(stamp(), before);
  EXPECT_GT(good, 100u);  // else the archives are too bad to reach the interesting places
  EXPECT_LT(good, 9900u);
}

// The same for what files on disk say of themselves.
TEST(Headers, TenThousandDamagedFilesystems) {
  auto made = make_template(64 << 20, Class::kThin);
  ASSERT_TRUE(made) << made.error().message();
  const std::string text = serialize(*made);
  const UniqueFd file(::memfd_create("ext4", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 64 << 20), 0);
  const auto restore = [&] {
    const char* data = made->data.data();
    for (const Extent& e : made->extents) {
      ASSERT_EQ(::pwrite(file.get(), data, e.size, static_cast<off_t>(e.offset)),
                static_cast<ssize_t>(e.size));
      data += e.size;
    }
  };
  std::mt19937 random(1);
  unsigned refused = 0;
  for (unsigned round = 0; round < 10000; ++round) {
    if (round % 50 == 0) restore();
    const std::uint64_t block = random() % 3 == 0 ? random() % 8192 : random() % 2048;
    const char byte = static_cast<char>(random());
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(1024 + block)), 1);
    const auto superblock = read_superblock(file.get());
    if (!superblock) {
      ++refused;
      continue;
    }
    if (superblock->groups() > 16) continue;  // good for seconds, not for harm
    (void)superblock->overhead_blocks();
    (void)read_used_blocks(file.get(), *superblock);
    (void)read_metadata_blocks(file.get(), *superblock);
    if (round % 20 == 0) {
      std::string damaged = text;
      damaged[random() % 3000 % damaged.size()] ^= static_cast<char>(1 + random() % 255);
      EXPECT_FALSE(deserialize(damaged));
    }
  }
  EXPECT_GT(refused, 100u);
}

// --- the store -----------------------------------------------------------------------------------

class ImageTest : public test::OnEachHost {
 protected:
  void SetUp() override {
    OnEachHost::SetUp();
    if (IsSkipped()) return;
    source = make_directory("source");
    ASSERT_EQ(
        shell("cd " + source +
              " && mkdir -p etc bin d/e && echo hello > etc/name && ln etc/name etc/other && "
              "ln -s ../etc/name bin/link && mknod d/null c 1 3 && mkfifo d/pipe && "
              "chmod 4755 etc/name && chown 12:34 d/e && touch -d 2001-02-03 d/e && "
              "truncate -s 3M d/sparse && echo end >> d/sparse && printf x > 'd/\xc3\xa4 b' &&"
              "python3 -c \"import os; os.setxattr('etc/name', 'user.note', b'kept')\""),
        0);
  }
  ImageStore open() {
    auto images = ImageStore::open(host->path() + "/images");
    EXPECT_TRUE(images) << images.error().message();
    return std::move(*images);
  }
  std::string source;
};
UMWELT_ON_EACH_HOST(ImageTest);

std::string listing(const std::string& root) {
  std::string text;
  EXPECT_EQ(shell("cd " + root +
                      "/ && find . -mindepth 1 \\( -type d -printf '%p d %m %U:%G %t\\n' -o "
                      "-printf '%p %y %m %U:%G %s %n %l %t\\n' \\) | sort; cd " +
                      root +
                      "/ && find . -type f | sort | xargs -d '\\n' sha256sum; python3 -c \""
                      "import os; print(os.getxattr('" +
                      root + "/etc/name', 'user.note'))\"",
                  &text),
            0)
      << text;
  return text;
}

TEST_P(ImageTest, DirectoryAndArchiveGiveTheSameImage) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->form, ImageForm::kErofs);
  const auto mounted = images.mount(*image);
  ASSERT_TRUE(mounted) << mounted.error().message();
  EXPECT_EQ(listing(path_of(mounted->mount.get())), listing(source));
  EXPECT_NE(shell("touch " + path_of(mounted->mount.get()) + "/new"), 0);

  const std::string archive = test::scratch_directory() + "/image.tar";
  {
    const UniqueFd file(::open(archive.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    ASSERT_TRUE(images.export_to(*image, file.get()));
  }
  const auto again = images.import(archive, "b");
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->digest, image->digest);
  std::string count;
  ASSERT_EQ(shell("ls " + host->path() + "/images/*.erofs | wc -l", &count), 0);
  EXPECT_EQ(count, "1\n");
  ASSERT_EQ(shell("gzip -f " + archive), 0);
  const auto compressed = images.import(archive + ".gz", "c");
  ASSERT_TRUE(compressed) << compressed.error().message();
  EXPECT_EQ(compressed->digest, image->digest);
  EXPECT_TRUE(images.verify(*compressed));
}

TEST_P(ImageTest, SharedLockedAndGone) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(images.import(source, "a").error().code, EEXIST);
  {
    const auto one = images.mount(*image), two = images.mount(*image);
    ASSERT_TRUE(one && two);
    struct stat a {
    }, b{};
    ASSERT_EQ(::fstat(one->mount.get(), &a) | ::fstat(two->mount.get(), &b), 0);
    EXPECT_EQ(a.st_dev, b.st_dev);  // one superblock, one page cache
    EXPECT_TRUE(images.in_use(*image));
    EXPECT_EQ(images.remove("a").error().code, EBUSY);
  }
  for (int i = 0; i < 250 && images.in_use(*image); ++i) ::usleep(20000);
  ASSERT_TRUE(images.remove("a"));
  EXPECT_EQ(images.find("a").error().code, ENOENT);
  std::string left;
  ASSERT_EQ(shell("ls -A " + host->path() + "/images", &left), 0);
  EXPECT_EQ(left, "");
}

TEST_P(ImageTest, DamageIsASentence) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  const std::string path = host->path() + "/images/sha256-" + image->digest.substr(7) + ".erofs";
  const auto damaged = [&] {
    const auto mounted = images.mount(*image);
    return !mounted && mounted.error().code == 0 &&
           mounted.error().text.find("image a is damaged") != std::string::npos;
  };
  ASSERT_EQ(shell("cp " + path + " " + path + ".good"), 0);
  for (const unsigned offset : {1024U, 1028U, 1036U, 1064U}) {  // magic, checksum, block size, root
    ASSERT_EQ(shell("cp " + path + ".good " + path), 0);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(offset);
    const int byte = file.get();
    file.seekp(offset);
    file.put(static_cast<char>(~byte));
    file.close();
    ASSERT_TRUE(file) << offset;
    EXPECT_TRUE(damaged()) << offset;
    EXPECT_FALSE(images.verify(*image));
  }
  ASSERT_EQ(shell("cp " + path + ".good " + path + " && truncate -s -4096 " + path), 0);
  EXPECT_TRUE(damaged());
  for (const char* make : {"mkdir ", "mkfifo ", "ln -s /dev/null ", "ln -s loop.erofs "}) {
    ASSERT_EQ(shell("rm -rf " + path + "; " + make + path), 0);
    EXPECT_TRUE(damaged()) << make;
  }
  EXPECT_TRUE(images.remove("a"));
}

TEST_P(ImageTest, FailedImportLeavesNothing) {
  const ImageStore images = open();
  const std::string archive = test::scratch_directory() + "/bad.tar";
  std::ofstream(archive) << tar({{.path = "good", .data = "x"}, {.path = "../evil", .data = "x"}});
  EXPECT_EQ(images.import(archive, "a").error().code, 0);
  EXPECT_FALSE(images.import("/nonexistent", "a"));
  EXPECT_FALSE(images.import("/dev/null", "a"));
  EXPECT_FALSE(images.import(source, "../a"));
  ASSERT_EQ(shell("cd " + host->path() + "/images && mkdir .staging-dead && touch .staging-dead/x"),
            0);
  EXPECT_EQ(*images.tidy(), 1u);
  std::string left;
  ASSERT_EQ(shell("ls -A " + host->path() + "/images", &left), 0);
  EXPECT_EQ(left, "");
}

TEST_P(ImageTest, CloneBaseHoldsTheImage) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image);
  const auto base = images.clone_base(*image, 64 << 20, Class::kThin);
  ASSERT_TRUE(base) << base.error().message();
  std::string text;
  ASSERT_EQ(shell("debugfs -R 'cat /etc/name' " + path_of(base->get()) + " 2>/dev/null", &text), 0);
  EXPECT_EQ(text, "hello\n");
  EXPECT_TRUE(images.clone_base(*image, 64 << 20, Class::kThin));
  EXPECT_TRUE(images.remove("a"));
}

TEST(Layers, WhiteoutsOfAnOciArchive) {
  auto host = test::HostFilesystem::make("root", 0);
  const std::string root = make_directory("oci");
  std::string output;
  ASSERT_EQ(shell(R"(cd )" + root + R"( && python3 - <<'END'
import hashlib, io, json, os, tarfile, gzip
def layer(*entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                t.addfile(info)
            else:
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    return out.getvalue()
os.makedirs("blobs/sha256")
def blob(data, media):
    h = hashlib.sha256(data).hexdigest()
    open("blobs/sha256/" + h, "wb").write(data)
    return {"mediaType": media, "digest": "sha256:" + h, "size": len(data)}
a = layer(("etc", None), ("etc/keep", b"1"), ("etc/gone", b"1"), ("opaque", None),
          ("opaque/old", b"1"), ("file", b"1"))
b = layer(("etc/.wh.gone", b""), ("opaque/new", b"2"), ("opaque/.wh..wh..opq", b""), ("file", b"2"))
layers = [blob(gzip.compress(a), "application/vnd.oci.image.layer.v1.tar+gzip"),
          blob(b, "application/vnd.oci.image.layer.v1.tar")]
config = blob(json.dumps({"config": {"Env": ["A=b"], "WorkingDir": "/etc"}}).encode(),
              "application/vnd.oci.image.config.v1+json")
manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": layers}).encode(),
                "application/vnd.oci.image.manifest.v1+json")
json.dump({"imageLayoutVersion": "1.0.0"}, open("oci-layout", "w"))
json.dump({"schemaVersion": 2, "manifests": [manifest]}, open("index.json", "w"))
END
tar cf ../oci.tar .)",
                  &output),
            0)
      << output;
  auto images = ImageStore::open(host->path() + "/images");
  ASSERT_TRUE(images);
  const auto image = images->import(test::scratch_directory() + "/oci.tar", "oci");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->config.environment, std::vector<std::string>{"A=b"});
  EXPECT_EQ(image->config.workdir, "/etc");
  const auto mounted = images->mount(*image);
  ASSERT_TRUE(mounted) << mounted.error().message();
  ASSERT_EQ(shell("cd " + path_of(mounted->mount.get()) + "/ && find . -type f | sort && cat file",
                  &output),
            0);
  EXPECT_EQ(output, "./etc/keep\n./file\n./opaque/new\n2");
  const auto same = images->import(root, "oci-directory");
  ASSERT_TRUE(same) << same.error().message();
  EXPECT_EQ(same->digest, image->digest);
  ASSERT_EQ(shell("cd " + root + " && for f in blobs/sha256/*; do echo x >> $f; done"), 0);
  const auto damaged = images->import(root, "oci-damaged");
  ASSERT_FALSE(damaged);
  EXPECT_NE(damaged.error().text.find("damaged"), std::string::npos) << damaged.error().text;
}

}  // namespace
}  // namespace umwelt::vdisk
