// SPDX-License-Identifier: Apache-2.0
// Images: what is odd about what goes in, and what an import or a machine that ends leaves.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <string>

#include "base/file.h"
#include "host.h"
#include "vdisk/image.h"
#include "vdisk/tool.h"

namespace umwelt::vdisk {
namespace {

using test::make_directory;
using test::scratch_directory;
using test::shell;
using test::soon;

class ImportTest : public testing::Test {
 protected:
  void SetUp() override {
    host = test::HostFilesystem::make("ext4", 512U << 20);
    ASSERT_TRUE(host);
    source = make_directory("source");
    ASSERT_EQ(shell("echo hello > " + source + "/f"), 0);
  }
  ImageStore open() const {
    auto images = ImageStore::open(host->path() + "/images");
    EXPECT_TRUE(images) << images.error().message();
    return std::move(*images);
  }
  std::string left() const {
    std::string names;
    EXPECT_EQ(shell("ls -A " + host->path() + "/images", &names), 0);
    return names;
  }
  static Result<void> export_to(const ImageStore& images, const Image& image,
                                const std::string& path) {
    const UniqueFd file = UMWELT_TRY(open_at(AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0600));
    return images.export_to(image, file.get());
  }

  std::unique_ptr<test::HostFilesystem> host;
  std::string source, archive = scratch_directory() + "/archive.tar";
};

TEST_F(ImportTest, AnExportHasNoSockets) {
  const ImageStore images = open();
  ASSERT_EQ(shell("cd " + source +
                  " && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'"),
            0);
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  const auto exported = export_to(images, *image, archive);
  ASSERT_TRUE(exported) << exported.error().message();
  std::string names;
  ASSERT_EQ(shell("tar tf " + archive, &names), 0);
  EXPECT_EQ(names, "./\n./f\n");
  EXPECT_TRUE(images.import(archive, "b"));
}

// The attributes of "f" and of the directory "d" in it.
std::string acls(const std::string& root) {
  std::string text;
  EXPECT_EQ(shell("cd " + root +
                      "/ && python3 -c \"import os; print([(p, k[-7:], os.getxattr(p, k), "
                      "oct(os.stat(p).st_mode)) for p in ('f', 'd') "
                      "for k in sorted(os.listxattr(p))])\"",
                  &text),
            0)
      << text;
  return text;
}

TEST_F(ImportTest, AclsAreKept) {
  const ImageStore images = open();
  ASSERT_EQ(shell("cd " + source + R"( && mkdir d && python3 - <<'END'
import os, struct
def acl(*rows):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)
rows = (1, 7, -1), (2, 5, 2), (2, 6, 4711), (4, 0, -1), (8, 4, 3), (16, 7, -1), (32, 1, -1)
os.setxattr("f", "system.posix_acl_access", acl(*rows))
os.setxattr("d", "system.posix_acl_access", acl(*rows[:2], *rows[3:]))
os.setxattr("d", "system.posix_acl_default", acl(*rows))
END
)"),
            0);
  const auto expected = acls(source);
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  const auto exported = export_to(images, *image, archive);
  ASSERT_TRUE(exported) << exported.error().message();
  const auto check = [&](const std::string& name) {
    const auto again = images.import(archive, name);
    ASSERT_TRUE(again) << again.error().message();
    const auto mounted = images.mount(*again);
    ASSERT_TRUE(mounted) << mounted.error().message();
    EXPECT_EQ(acls(path_of(mounted->mount.get())), expected) << name;
  };
  check("exported");
  const std::string tar = "tar -C " + source + " -cf " + archive + " --xattrs --xattrs-include='*'";
  ASSERT_EQ(shell(tar + " ."), 0);
  check("attributes");
  ASSERT_EQ(shell(tar + " --acls ."), 0);
  check("both");
  ASSERT_EQ(shell("tar -C " + source + " -cf " + archive + " --acls ."), 0);
  const auto named = images.import(archive, "names");
  ASSERT_FALSE(named);  // 2 is bin, wherever this runs
  EXPECT_NE(named.error().text.find("--xattrs"), std::string::npos) << named.error().text;
}

TEST_F(ImportTest, OrdersToOverlayfsAreDropped) {
  const ImageStore images = open();
  const std::string python = " && python3 -c 'import os; ";
  ASSERT_EQ(shell("cd " + source + " && mkdir d" + python +
                  "[os.setxattr(p, k, b\"y\") for p in (\".\", \"d\", \"f\") for k in "
                  "(\"trusted.overlay.opaque\", \"user.note\")]'"),
            0);
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  const auto mounted = images.mount(*image);
  ASSERT_TRUE(mounted) << mounted.error().message();
  std::string names;
  EXPECT_EQ(shell("cd " + path_of(mounted->mount.get()) + "/" + python +
                      "print([os.listxattr(p) for p in (\".\", \"d\", \"f\")])'",
                  &names),
            0);
  EXPECT_EQ(names, "[['user.note'], ['user.note'], ['user.note']]\n");
  ASSERT_EQ(shell("tar -C " + source + " -cf " + archive + " --xattrs --xattrs-include='*' ."), 0);
  const auto unpacked = images.import(archive, "b");
  ASSERT_TRUE(unpacked) << unpacked.error().message();
  EXPECT_EQ(unpacked->digest, image->digest);
}

TEST_F(ImportTest, OneThatIsKilledLeavesNothing) {
  const ImageStore images = open();
  ASSERT_EQ(shell("head -c 3000000 /dev/urandom > " + source + "/f && tar -C " + source + " -cf " +
                  archive + " ."),
            0);
  for (const int signal : {SIGINT, SIGTERM, SIGKILL}) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const UniqueFd reading(ends[0]), writing(ends[1]);
    const pid_t importer = ::fork();
    if (importer == 0) {
      ::close(ends[1]);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      (void)images.import("-", "a", {}, reading.get());
      ::_exit(0);
    }
    // Not all of it, so that it waits for the rest.
    EXPECT_EQ(shell("head -c 2000000 " + archive + " > " + path_of(writing.get())), 0);
    EXPECT_TRUE(soon(
        [&] { return shell("test -s " + host->path() + "/images/.staging-*/rootfs/f") == 0; }));
    EXPECT_EQ(*images.tidy(), 0U);
    ::kill(importer, signal);
    int status = 0;
    EXPECT_TRUE(soon([&] { return ::waitpid(importer, &status, WNOHANG) == importer; }));
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << status;
    EXPECT_TRUE(soon([&] { return left().empty(); })) << signal << ": " << left();
  }
}

TEST_F(ImportTest, ANameThatExistsKeepsNoLeftovers) {
  const ImageStore images = open();
  ASSERT_TRUE(images.import(source, "a"));
  std::filesystem::create_directory(host->path() + "/images/.staging-dead");
  EXPECT_EQ(images.import(source, "a").error().code, EEXIST);
  EXPECT_EQ(left().find(".staging"), std::string::npos) << left();
}

TEST_F(ImportTest, TheCriticalMarkOfTheVdisksStaysFree) {
  ASSERT_EQ(shell("head -c 120M /dev/urandom > " + source + "/f && tar -C " + source + " -cf " +
                  archive + " ."),
            0);
  const ImageStore images = open();
  const std::uint64_t critical = 300ULL << 20;
  const Store vdisks = test::open_store(*host, {.critical_bytes = critical});
  std::uint64_t least = vdisks.sums()->free_bytes;
  const auto look = [&](const ImportStep&) { least = std::min(least, vdisks.sums()->free_bytes); };
  for (const std::string& from : {source, archive}) {
    const auto refused = images.import(from, "a", look, 0, &vdisks);
    ASSERT_FALSE(refused) << from;
    EXPECT_NE(refused.error().text.find("must stay free"), std::string::npos)
        << refused.error().message();
  }
  EXPECT_GE(least, critical);
  const auto image = images.import(archive, "a");
  EXPECT_TRUE(image) << image.error().message();
}

TEST_F(ImportTest, SomeInodesStayFree) {
  ASSERT_EQ(shell("cd " + source + " && seq 35000 | xargs touch && tar -cf " + archive + " ."), 0);
  const ImageStore images = open();
  const auto refused = images.import(archive, "a");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ENOSPC);
  EXPECT_NE(refused.error().text.find("inodes must stay free"), std::string::npos)
      << refused.error().text;
  EXPECT_TRUE(images.list()->images.empty());
}

TEST_F(ImportTest, AFifoIsWaitedFor) {
  const ImageStore images = open();
  const std::string fifo = scratch_directory() + "/fifo";
  ASSERT_EQ(shell("mkfifo " + fifo), 0);
  ASSERT_EQ(shell("(sleep 0.3; exec tar -C " + source + " -cf " + fifo + " .) > /dev/null 2>&1 &"),
            0);
  const auto image = images.import(fifo, "a");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->entries, 2U);
}

TEST_F(ImportTest, ALayerMayBeEmpty) {
  const ImageStore images = open();
  ASSERT_EQ(
      shell("cd " + source + R"( && tar cf one.tar f && tar cf none.tar -T /dev/null && rm f &&
echo '{"config": {}}' > c.json &&
echo '[{"Config": "c.json", "Layers": ["none.tar", "one.tar", "none.tar"]}]' > manifest.json &&
tar cf )" + archive +
            " *"),
      0);
  const auto image = images.import(archive, "a");
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->entries, 1U);
  const auto empty = images.import(source + "/none.tar", "b");
  ASSERT_FALSE(empty);
  EXPECT_NE(empty.error().text.find("empty"), std::string::npos) << empty.error().text;
}

// With every number of descriptors that is too few.
TEST_F(ImportTest, TooManyOpenFilesAreNoDamage) {
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_TRUE(image) << image.error().message();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto next = static_cast<rlim_t>(UniqueFd(::dup(0)).get());
  const auto fails_until_it_can = [&](const std::function<Result<void>()>& work) {
    for (rlim_t more = 0;; ++more) {
      const rlimit few{next + more, before.rlim_max};
      EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
      const auto done = work();
      EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
      if (done) return more;
      EXPECT_EQ(done.error().code, EMFILE) << more << ": " << done.error().message();
      if (more > 100) return more;
    }
  };
  EXPECT_GE(fails_until_it_can([&]() -> Result<void> {
              UMWELT_TRY(images.mount(*image));
              return {};
            }),
            3U);
  EXPECT_GE(fails_until_it_can([&]() -> Result<void> {
              EXPECT_TRUE(UMWELT_TRY(images.list()).damaged.empty());
              return {};
            }),
            1U);
  EXPECT_GE(fails_until_it_can([&] { return images.verify(*image); }), 1U);
  ASSERT_TRUE(soon([&] { return !images.in_use(*image); }));
  ASSERT_EQ(shell("chattr +i " + host->path() + "/images/*.erofs"), 0);
  const auto immutable = images.mount(*image);
  ASSERT_EQ(shell("chattr -i " + host->path() + "/images/*.erofs"), 0);
  ASSERT_FALSE(immutable);
  EXPECT_EQ(immutable.error().code, EPERM) << immutable.error().text;
}

// FS_IOC_SHUTDOWN without a flush of the journal is a power cut.
TEST_F(ImportTest, OneThatIsDoneOutlivesAPowerCut) {
  const auto tool = find_tool("mkfs.erofs");
  ASSERT_TRUE(tool);
  const std::string path = make_directory("mounted"), backing = scratch_directory() + "/backing";
  const std::string mount = "mount -o loop " + backing + " " + path;
  for (const ImageForm form : {ImageForm::kErofs, ImageForm::kDirectory}) {
    ASSERT_EQ(
        shell("truncate -s 256M " + backing + " && mkfs.ext4 -qF " + backing + " && " + mount), 0);
    const bool directory = form == ImageForm::kDirectory;
    if (directory) {
      ASSERT_EQ(shell("mount --bind /dev/null " + *tool), 0);
    }
    {
      const auto images = ImageStore::open(path + "/images");
      const auto image = images->import(source, "a");
      EXPECT_TRUE(image) << image.error().message();
    }
    if (directory) {
      ASSERT_EQ(shell("umount " + *tool), 0);
    }
    EXPECT_EQ(shell("python3 -c 'import fcntl, os, struct; fcntl.ioctl(os.open(\"" + path +
                    "\", os.O_RDONLY), 0x8004587D, struct.pack(\"I\", 2))'"),
              0);
    EXPECT_EQ(shell("umount " + path + " && " + mount), 0);
    {
      const auto images = ImageStore::open(path + "/images");
      const auto image = images->find("a");
      EXPECT_TRUE(image) << image.error().message();
      if (image) {
        EXPECT_EQ(image->form, form);
        EXPECT_TRUE(images->verify(*image));
      }
    }
    EXPECT_EQ(shell("umount " + path), 0);
  }
}

TEST_F(ImportTest, AReadOnlyStoreIsGoodForReading) {
  const auto tool = find_tool("mkfs.erofs");
  ASSERT_TRUE(tool);
  const ImageStore images = open();
  const auto image = images.import(source, "a");
  ASSERT_EQ(shell("mount --bind /dev/null " + *tool), 0);
  const auto directory = images.import(source, "d");
  ASSERT_EQ(shell("umount " + *tool), 0);
  ASSERT_TRUE(image && directory);
  ASSERT_EQ(shell("mount -o remount,ro " + host->path()), 0);
  for (const Image& each : {*image, *directory}) {
    {
      const auto one = images.mount(each), two = images.mount(each);
      ASSERT_TRUE(one) << one.error().message();
      ASSERT_TRUE(two) << two.error().message();
      EXPECT_EQ(*read_file(path_of(two->mount.get()) + "/f"), "hello\n");
      EXPECT_TRUE(images.in_use(each));
    }
    EXPECT_TRUE(soon([&] { return !images.in_use(each); }));
    EXPECT_TRUE(export_to(images, each, archive));
  }
}

}  // namespace
}  // namespace umwelt::vdisk
