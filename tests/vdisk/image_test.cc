// SPDX-License-Identifier: Apache-2.0
// Images: what goes in comes out, is stored once, shared and checked.
#include "vdisk/image.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "host.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::make_directory;
using test::shell;
using test::soon;

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
  ASSERT_TRUE(soon([&] { return !images.in_use(*image); }));
  ASSERT_TRUE(images.remove("a"));
  EXPECT_EQ(images.find("a").error().code, ENOENT);
  std::string left;
  ASSERT_EQ(shell("ls -A " + host->path() + "/images", &left), 0);
  EXPECT_EQ(left, "");
}

TEST_P(ImageTest, WhatAKillLeftIsRemoved) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  ASSERT_TRUE(images.import(source, "b"));
  const std::string path = host->path() + "/images/";
  const auto content = [&] { return shell("ls " + path + "sha256-* > /dev/null 2>&1") == 0; };
  // Between the two steps of a removal, or of an import.
  ASSERT_EQ(shell("rm " + path + "a.json && echo '{}' > " + path + "c.json"), 0);
  EXPECT_EQ(*images.tidy(), 0U);  // what c is of is not known
  ASSERT_EQ(shell("mv " + path + "c.json " + path + "c.json.new && touch " + path + "sha256-mine"),
            0);
  EXPECT_EQ(*images.tidy(), 1U);
  EXPECT_TRUE(images.verify(*images.find("b")));
  {
    const auto mounted = images.mount(*image);
    ASSERT_TRUE(mounted) << mounted.error().message();
    ASSERT_EQ(shell("rm " + path + "b.json"), 0);
    EXPECT_EQ(*images.tidy(), 0U);
  }
  ASSERT_TRUE(soon([&] { return !images.in_use(*image); }));
  EXPECT_EQ(*images.tidy(), 1U);
  ASSERT_EQ(shell("rm " + path + "sha256-mine"), 0);
  EXPECT_FALSE(content());
  EXPECT_TRUE(images.import(source, "a"));
}

TEST_P(ImageTest, NobodyWaitsToTidyUp) {
  const ImageStore images = open();
  ASSERT_EQ(shell("mkdir " + host->path() + "/images/.staging-dead"), 0);
  {
    const UniqueFd lock(::open((host->path() + "/images").c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
    ::alarm(20);  // ends all of it where somebody does
    EXPECT_EQ(*images.tidy(), 0U);
    ::alarm(0);
  }
  EXPECT_EQ(*images.tidy(), 1U);
}

TEST_P(ImageTest, ANameMayLookLikeContent) {
  const ImageStore images = open();
  const std::string hex(64, 'a'), content = "sha256-" + hex;
  const std::vector<std::string> names = {content, content + ".erofs", content + ".1.ext4"};
  for (const std::string& name : names) ASSERT_TRUE(images.import(source, name));
  EXPECT_EQ(*images.tidy(), 0U);
  for (const std::string& name : names) {
    const auto image = images.find(name);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_TRUE(images.verify(*image));
  }
  const std::string path = host->path() + "/images/";
  ASSERT_EQ(shell("cd " + path + " && touch " + content + ".erofs " + content + ".d.lock " +
                  content + ".1-nojournal.ext4 " + content + ".txt " + content + ".x.ext4 sha256-" +
                  std::string(64, 'A') + ".erofs"),
            0);
  EXPECT_EQ(*images.tidy(), 3U);
}

TEST_P(ImageTest, ADamagedDescriptionIsNamedAndCanBeRemoved) {
  const ImageStore images = open();
  ASSERT_TRUE(images.import(source, "good"));
  const std::string path = host->path() + "/images/";
  for (const char* damage : {": > ", "truncate -s 5M ", "echo '{}' > ", "cp good.json "}) {
    ASSERT_TRUE(images.import(source, "bad"));
    ASSERT_EQ(shell("cd " + path + " && " + damage + "bad.json"), 0);
    const auto list = images.list();
    ASSERT_EQ(list->images.size(), 1U) << damage;
    EXPECT_EQ(list->damaged, std::vector<std::string>{"bad"});
    EXPECT_NE(images.find("bad").error().text.find("image bad is damaged"), std::string::npos);
    EXPECT_TRUE(images.remove("bad")) << damage;
    EXPECT_TRUE(images.list()->damaged.empty());
    EXPECT_TRUE(images.verify(*images.find("good")));
  }
  // As long as one is damaged, what it needs is not known; with its end the rest goes.
  ASSERT_EQ(shell("cd " + path + " && : > bad.json"), 0);
  const Image good = *images.find("good");
  {
    const auto mounted = images.mount(good);
    EXPECT_EQ(images.remove("good").error().code, EBUSY);
  }
  ASSERT_TRUE(soon([&] { return !images.in_use(good); }));
  EXPECT_TRUE(images.remove("good"));
  EXPECT_EQ(shell("ls " + path + "*.erofs"), 0);
  EXPECT_TRUE(images.remove("bad"));
  std::string left;
  ASSERT_EQ(shell("ls -A " + path, &left), 0);
  EXPECT_EQ(left, "");
}

TEST_P(ImageTest, DamagedContentIsReplaced) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  const std::string path = host->path() + "/images/" + content_name(*image);
  const auto damage = [&] {
    return shell("printf X | dd of=" + path + " bs=1 seek=5000 conv=notrunc 2>/dev/null");
  };
  {
    const auto mounted = images.mount(*image);
    ASSERT_TRUE(mounted) << mounted.error().message();
    ASSERT_EQ(damage(), 0);
    const auto other = images.import(source, "b");
    ASSERT_FALSE(other);
    EXPECT_NE(other.error().text.find("image a, which is damaged and in use"), std::string::npos)
        << other.error().text;
  }
  ASSERT_TRUE(soon([&] { return !images.in_use(*image); }));
  unsigned number = 0;
  for (const std::string& command :
       {std::string(":"), "truncate -s 0 " + path,
        "rm " + path + " && mkdir " + path + " && touch " + path + "/x"}) {
    ASSERT_EQ(shell(command), 0);
    const auto other = images.import(source, "b" + std::to_string(number++));
    ASSERT_TRUE(other) << other.error().message();
    EXPECT_TRUE(images.verify(*image));
  }
}

// Where this machine has no EROFS.
TEST_P(ImageTest, ADirectoryIsCheckedAsWell) {
  const auto tool = find_tool("mkfs.erofs");
  ASSERT_TRUE(tool);
  ASSERT_EQ(shell("mount --bind /dev/null " + *tool), 0);
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_EQ(shell("umount " + *tool), 0);
  ASSERT_TRUE(image) << image.error().message();
  ASSERT_EQ(image->form, ImageForm::kDirectory);
  {
    const auto mounted = images.mount(*image);
    ASSERT_TRUE(mounted) << mounted.error().message();
    EXPECT_EQ(listing(path_of(mounted->mount.get())), listing(source));
  }
  EXPECT_TRUE(images.verify(*image));
  const std::string tree = host->path() + "/images/sha256-" + image->digest.substr(7) + ".d";
  ASSERT_EQ(shell("rm " + tree + "/d/sparse"), 0);
  EXPECT_FALSE(images.verify(*image));
  ASSERT_EQ(shell("mount --bind /dev/null " + *tool), 0);
  const auto mended = images.import(source, "mended");
  ASSERT_EQ(shell("umount " + *tool), 0);
  ASSERT_TRUE(mended) << mended.error().message();
  EXPECT_TRUE(images.verify(*image));
  EXPECT_TRUE(images.mount(*mended));
  // A removal that was killed: what is left of it must not become the next image.
  ASSERT_EQ(shell("rm " + tree + "/d/sparse " + host->path() + "/images/a.json " + host->path() +
                  "/images/mended.json"),
            0);
  ASSERT_EQ(shell("mount --bind /dev/null " + *tool), 0);
  const auto again = images.import(source, "b");
  ASSERT_EQ(shell("umount " + *tool), 0);
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->digest, image->digest);
  EXPECT_TRUE(images.verify(*again));
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
  ASSERT_EQ(shell("cd " + source + "/d && tar --absolute-names -cf " + archive + " sparse ../etc"),
            0);
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
  unsigned copied = 0;
  const auto clone = test::open_store(*host, {}).make_clone(
      test::wish(64 << 20, Kind::kClone), base->get(), [&](auto, auto) { ++copied; });
  ASSERT_TRUE(clone) << clone.error().message();
  // The others may have reflinks, too.
  if (GetParam() == std::string("xfs") || GetParam() == std::string("btrfs")) {
    EXPECT_EQ(copied, 0U);
  }
  // It can be made again: one that nobody reads is no use.
  EXPECT_TRUE(images.clone_base(*image, 65 << 20, Class::kThin));
  ASSERT_EQ(shell("touch -a -d '40 days ago' " + host->path() + "/images/*." +
                  std::to_string(65 << 20) + ".ext4"),
            0);
  EXPECT_EQ(*images.tidy(), 1U);
  EXPECT_EQ(shell("ls " + host->path() + "/images/*." + std::to_string(64 << 20) + ".ext4"), 0);
  EXPECT_TRUE(images.remove("a"));
}

TEST(Description, IsNoLongerThanWhatIsReadBack) {
  Image image;
  EXPECT_TRUE(describe(image));
  image.config.environment = {"A=" + std::string(3U << 20, 'x')};
  EXPECT_TRUE(describe(image));
  image.config.environment.assign(1U << 20, "");
  const auto text = describe(image);
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, 0);
}

TEST_P(ImageTest, ARootFilesystemMayHaveAManifest) {
  const ImageStore images = open();
  const std::string archive = test::scratch_directory() + "/manifest.tar";
  unsigned number = 0;
  for (const char* text :
       {R"({"name": "my web app"})", R"([])", R"([{"Config": "c.json"}])", R"([1])", "no JSON"}) {
    std::ofstream(source + "/manifest.json") << text;
    ASSERT_EQ(shell("tar -C " + source + " -cf " + archive + " ."), 0);
    const auto image = images.import(source, "d" + std::to_string(number));
    ASSERT_TRUE(image) << text << ": " << image.error().message();
    const auto same = images.import(archive, "a" + std::to_string(number++));
    ASSERT_TRUE(same) << text << ": " << same.error().message();
    EXPECT_GT(same->entries, 10U);
  }
}

}  // namespace
}  // namespace umwelt::vdisk
