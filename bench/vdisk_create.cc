// SPDX-License-Identifier: Apache-2.0
// Time from nothing to a mounted root filesystem, several ways in turns, in one process: what the
// launcher does, without starting a container. Prints JSON: milliseconds of each way in each round.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <iostream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/file.h"
#include "vdisk/image.h"
#include "vdisk/mount_api.h"
#include "vdisk/overlay.h"
#include "vdisk/ready.h"
#include "vdisk/store.h"
#include "vdisk/tool.h"

namespace {

using namespace umwelt;
using namespace umwelt::vdisk;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::cerr << result.error().message() << "\n";
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

struct Bench {
  std::string directory;
  std::uint64_t capacity_bytes = 0;
  ImageStore images;
  Image image;
  Store store;
  MountedImage lower;
  std::string plain_template;  // a file with an empty ext4, for the tools
  unsigned counter = 0;

  Record record() const {
    Record r;
    r.capacity_bytes = capacity_bytes;
    r.keep = false;
    return r;
  }
  std::string name() { return "bench-" + std::to_string(counter++); }
  UniqueFd overlay(int disk) {
    return must(mount_overlay({.lowers = {lower.mount.get()}, .disk = disk, .name = "bench"}));
  }
  // A first look and a first write, as a container does at once.
  void touch(int root) { must(open_at(root, "umwelt-bench", O_WRONLY | O_CREAT | O_EXCL, 0644)); }
};

using Undo = std::function<void()>;
struct Way {
  const char* name;
  std::function<std::pair<UniqueFd, Undo>(Bench&)> make;
};

// What docker's overlay2 does: no limit.
std::pair<UniqueFd, Undo> plain(Bench& b) {
  const std::string path = b.directory + "/" + b.name();
  for (const char* part : {"", "/upper", "/work"}) ::mkdir((path + part).c_str(), 0755);
  const UniqueFd layer = must(clone_mount(AT_FDCWD, path));
  UniqueFd root = b.overlay(layer.get());
  return {std::move(root), [path] { fs::remove_all(path); }};
}

std::pair<UniqueFd, Undo> finish(Bench& b, Disk made) {
  auto disk = std::make_shared<Disk>(std::move(made));
  UniqueFd root = b.overlay(disk->mount());
  const std::string name = b.name();
  must(b.store.publish(*disk, name));
  return {std::move(root), [disk, name, &b] { b.store.discard(*disk, name); }};
}

std::pair<UniqueFd, Undo> pool(Bench& b) {
  auto disk = must(b.store.take_ready(b.record()));
  if (!disk) {
    std::cerr << "no vdisk was ready\n";
    std::exit(1);
  }
  return finish(b, std::move(*disk));
}

std::pair<UniqueFd, Undo> from_template(Bench& b) {
  return finish(b, must(b.store.make(b.record())));
}

// The same steps by the programs that a script would run.
std::pair<UniqueFd, Undo> tools(Bench& b) {
  const std::string file = b.directory + "/" + b.name(), disk = file + ".disk",
                    root = file + ".root";
  fs::create_directories(disk);
  fs::create_directories(root);
  must(check_tool({"cp", "--sparse=always", b.plain_template, file}));
  std::string device = must(check_tool({"losetup", "--find", "--show", "--direct-io=on", file}));
  while (device.ends_with('\n')) device.pop_back();
  must(check_tool({"mount", "-t", "ext4", "-o", "discard", device, disk}));
  must(check_tool({"mount", "-t", "overlay", "overlay", "-o",
                   fmt::format("lowerdir={},upperdir={}/upper,workdir={}/work",
                               b.directory + "/lower", disk, disk),
                   root}));
  UniqueFd fd = must(open_at(AT_FDCWD, root, O_PATH | O_DIRECTORY));
  return {std::move(fd), [=] {
            ::umount2(root.c_str(), MNT_DETACH);
            ::umount2(disk.c_str(), MNT_DETACH);
            (void)check_tool({"losetup", "--detach", device});
            fs::remove_all(file);
            fs::remove_all(disk);
            fs::remove_all(root);
          }};
}

// All of the image, as the vdisks of old were made.
std::pair<UniqueFd, Undo> full_copy(Bench& b) {
  const UniqueFd base = must(b.images.clone_base(b.image, b.capacity_bytes, Class::kThin));
  UniqueFd file = must(create_unnamed(b.store.directory(), 0));
  must(copy_file(base.get(), file.get(), false));
  Record record = b.record();
  record.kind = Kind::kClone;
  record.id = random_id();
  auto disk = std::make_shared<Disk>(must(Disk::attach(std::move(file), record, "bench")));
  UniqueFd root(::fcntl(disk->mount(), F_DUPFD_CLOEXEC, 0));
  return {std::move(root), [disk] { disk->shut_down(); }};
}

// The keeper of the pool is another process, as the daemon is.
pid_t keep_ready(const Bench& b, unsigned count) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto ready = must(ReadyPool::open(b.store, {b.capacity_bytes, Class::kThin, count}));
  for (;;) {
    must(ready.refill(true, count));
    pollfd notice{ready.notice(), POLLIN, 0};
    ::poll(&notice, 1, -1);
    ::usleep(2000);  // until the container is made
  }
}

void wait_ready(const Bench& b, unsigned count) {
  const auto there = [&] {
    std::error_code error;
    unsigned n = 0;
    for (const auto& entry : fs::directory_iterator(b.directory + "/vdisks/.ready", error))
      n += !entry.path().filename().string().starts_with('.');
    return n;
  };
  while (there() < count) ::usleep(5000);
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory, source;
  unsigned rounds = 15, copies = 3;
  std::uint64_t gib = 10;
  CLI::App app("Time to make a root filesystem");
  app.add_option("--directory", directory)->required();
  app.add_option("--source", source, "image: a directory or an archive")->required();
  app.add_option("--rounds", rounds);
  app.add_option("--copies", copies, "rounds that also make a full copy");
  app.add_option("--gib", gib, "capacity");
  CLI11_PARSE(app, argc, argv);
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return 1;
  fs::create_directories(directory);
  const std::string where = directory + "/vdisks", templates = directory + "/templates";
  ImageStore images = must(ImageStore::open(directory + "/images"));
  Image image =
      images.find("bench") ? must(images.find("bench")) : must(images.import(source, "bench"));
  MountedImage lower = must(images.mount(image));
  Bench b{directory,
          gib << 30,
          std::move(images),
          std::move(image),
          must(Store::open(where, templates, {})),
          std::move(lower),
          directory + "/template.img"};
  fs::create_directories(directory + "/lower");
  {
    const UniqueFd file =
        must(open_at(AT_FDCWD, b.plain_template, O_RDWR | O_CREAT | O_TRUNC, 0600));
    if (::ftruncate(file.get(), static_cast<off_t>(b.capacity_bytes)) != 0) return 1;
    must(write_template(file.get(), must(make_template(b.capacity_bytes, Class::kThin)),
                        Class::kThin));
    const MountedImage again = must(b.images.mount(b.image));
    must(attach_mount(again.mount.get(), AT_FDCWD, directory + "/lower"));
  }
  constexpr unsigned kReady = 2;
  const pid_t keeper = keep_ready(b, kReady);
  std::vector<Way> ways = {{"plain", plain},
                           {"pool", pool},
                           {"template", from_template},
                           {"tools", tools},
                           {"full copy", full_copy}};
  nlohmann::json out = {{"image_bytes", b.image.content_bytes},
                        {"rounds", nlohmann::json::array()}};
  std::mt19937 random(1);
  for (unsigned round = 0; round <= rounds; ++round) {
    wait_ready(b, kReady);
    std::shuffle(ways.begin(), ways.end(), random);
    nlohmann::json times = nlohmann::json::object();
    for (const Way& way : ways) {
      if (std::string_view(way.name) == "full copy" && round > copies) continue;
      const auto start = Clock::now();
      auto [root, undo] = way.make(b);
      times[way.name] = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
      b.touch(root.get());
      root.reset();
      undo();
    }
    if (round > 0) out["rounds"].push_back(times);  // the first one warms up
  }
  ::kill(keeper, SIGKILL);
  ::waitpid(keeper, nullptr, 0);
  std::cout << out.dump() << "\n";
  return 0;
}
