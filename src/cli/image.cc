// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/containers.h"
#include "cli/options.h"
#include "cli/storage.h"

namespace umwelt::cli {
namespace {

using vdisk::Image;
using vdisk::ImageStore;

nlohmann::json image_json(const ImageStore& images, const Image& image) {
  nlohmann::json out = vdisk::to_json(image);
  out["in_use"] = images.in_use(image);
  return out;
}

Result<std::string> parse_image_name(std::string_view text) {
  if (vdisk::valid_image_name(text)) return std::string(text);
  return fail(0, fmt::format("'{}' is not a name of an image: 1 to 128 letters, digits, '_', '.', "
                             "':' and '-', of which the first is a letter or digit",
                             printable(text, 60)));
}

Result<Image> import_one(const Context& context, const ImageStore& images,
                         const std::string& source, const std::string& name) {
  const vdisk::Store vdisks = UMWELT_TRY(open_vdisks(context));
  Progress progress("importing " + printable(source, 60));
  auto image = images.import(source, name, show_steps(progress, name), STDIN_FILENO, &vdisks);
  if (!image && image.error().code == EEXIST)
    return fail(0, fmt::format("an image named {} exists: umwelt image rm {}, or choose another "
                               "name with --name",
                               name, name));
  if (!image && image.error().code == 0)
    return fail(0, fmt::format("{}: {}", printable(source, 200), image.error().text));
  return image;
}

Result<int> import(const Context& context, const std::string& wanted, bool json,
                   const std::string& source) {
  std::string name = wanted;
  if (name.empty() && source != "-") name = vdisk::image_name_of(source);
  if (name.empty())
    return fail_usage(fmt::format("image import: {} gives no name: choose one with --name",
                                  source == "-" ? "standard input" : printable(source, 200)));
  const ImageStore images = UMWELT_TRY(open_images(context));
  const Image image = UMWELT_TRY(import_one(context, images, source, name));
  if (json)
    UMWELT_CHECK(print_json(image_json(images, image)));
  else
    UMWELT_CHECK(print(fmt::format("{}  {}\n", image.name, image.digest)));
  return 0;
}

Result<int> list(const Context& context, bool json) {
  const ImageStore images = UMWELT_TRY(open_images(context));
  const vdisk::ImageList all = UMWELT_TRY(images.list());
  for (const std::string& name : all.damaged)
    print_note(
        fmt::format("image {} is damaged: umwelt image rm {}, and import it again", name, name));
  if (json) {
    nlohmann::json out = nlohmann::json::array();
    for (const Image& image : all.images) out.push_back(image_json(images, image));
    UMWELT_CHECK(print_json(out));
    return 0;
  }
  Table table({{"NAME"}, {"DIGEST"}, {"SIZE", true}, {"FILES", true}, {"AGE"}, {"IN USE"}});
  for (const Image& image : all.images)
    table.add({image.name, image.digest.substr(7, 12), human_size(image.stored_bytes),
               std::to_string(image.entries), human_duration(::time(nullptr) - image.created_s),
               images.in_use(image) ? "yes" : "no"});
  UMWELT_CHECK(print(table.render(colours(STDOUT_FILENO))));
  return 0;
}

// An overlay is nothing without the content that it was made on.
Result<void> check_no_vdisk_lies_on(const Image& image, const std::vector<vdisk::Entry>& vdisks) {
  for (const vdisk::Entry& e : vdisks)
    if (e.record && e.record->keep && e.record->kind == vdisk::Kind::kOverlay &&
        e.record->image == image.name && e.record->image_digest == image.digest)
      return fail(0, fmt::format("image {}: vdisk {} lies on it and can't be used without it: "
                                 "umwelt vdisk rm {} first, or use --force",
                                 image.name, e.name, e.name));
  return {};
}

Result<int> remove(const Context& context, bool force, bool json, const Operands& names) {
  const ImageStore images = UMWELT_TRY(open_images(context));
  std::vector<vdisk::Entry> vdisks;
  if (!force) {
    const vdisk::Store store = UMWELT_TRY(open_vdisks(context));
    vdisks = UMWELT_TRY(store.list());
  }
  return remove_each(names, json, [&](const std::string& name) -> Result<void> {
    if (const auto image = images.find(name)) UMWELT_CHECK(check_no_vdisk_lies_on(*image, vdisks));
    auto removed = images.remove(name);
    if (!removed && removed.error().code == ENOENT) UMWELT_TRY(find_image(images, name));
    if (!removed && removed.error().code == EBUSY)
      return fail(0, fmt::format("image {} is in use by a container: stop it first", name));
    return removed;
  });
}

Result<int> inspect(const Context& context, bool verify, const Operands& names) {
  const ImageStore images = UMWELT_TRY(open_images(context));
  nlohmann::json all = nlohmann::json::array();
  const auto act = [&](const std::string& name) -> Result<void> {
    const Image image = UMWELT_TRY(find_image(images, name));
    if (verify) {
      Progress progress("reading " + name);
      UMWELT_CHECK(images.verify(image, show_steps(progress, name)));
    }
    all.push_back(image_json(images, image));
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(names, act));
  UMWELT_CHECK(print_json(all));
  return code;
}

// A new file, which has no name before it is whole where the filesystem can have such.
class Output {
 public:
  static Result<Output> open(const std::string& path, mode_t mode) {
    struct stat status {};
    const bool there = ::lstat(path.c_str(), &status) == 0;
    if (there && (S_ISCHR(status.st_mode) || S_ISBLK(status.st_mode) || S_ISFIFO(status.st_mode)))
      return fail(0,
                  fmt::format("{} is no new file: write to it with > instead of --output", path));
    if (there) return fail(0, path + " exists: remove it, or choose another file");
    const std::string folder = std::filesystem::path(path).parent_path();
    auto file = open_at(AT_FDCWD, folder.empty() ? "." : folder, O_WRONLY | O_TMPFILE, mode);
    const bool nameless = file.has_value();
    if (!file && file.error().code == EOPNOTSUPP)
      file = open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (!file) return fail(file.error().code, "open " + path);
    return Output{path, *std::move(file), nameless};
  }

  int fd() const { return file_.get(); }
  // Keeps it if `written`.
  Result<void> close(Result<void> written) {
    if (written && ::fsync(fd()) != 0 && errno != EINVAL) written = fail_errno("write " + path_);
    const std::string proc = fmt::format("/proc/self/fd/{}", fd());
    if (written && nameless_ &&
        ::linkat(AT_FDCWD, proc.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) != 0)
      return fail_errno("open " + path_);
    if (!written && !nameless_) ::unlink(path_.c_str());
    return written;
  }

 private:
  Output(std::string path, UniqueFd file, bool nameless)
      : path_(std::move(path)), file_(std::move(file)), nameless_(nameless) {}
  std::string path_;
  UniqueFd file_;
  bool nameless_;
};

Result<int> export_image(const Context& context, const std::string& output,
                         const std::string& name) {
  const ImageStore images = UMWELT_TRY(open_images(context));
  const Image image = UMWELT_TRY(find_image(images, name));
  if (output.empty() && is_terminal(STDOUT_FILENO))
    return fail_usage("image export: standard output is a terminal: give a file with --output");
  Progress progress("exporting " + name);
  if (output.empty()) {
    UMWELT_CHECK(images.export_to(image, STDOUT_FILENO, show_steps(progress, name)));
    return 0;
  }
  Output file = UMWELT_TRY(Output::open(output, 0644 & ~context.umask));
  UMWELT_CHECK(file.close(images.export_to(image, file.fd(), show_steps(progress, name))));
  return 0;
}

// What is there already stays: a later start needs no unpacking either way.
Result<int> prefetch(const Context& context, bool json, const Operands& files) {
  const ImageStore images = UMWELT_TRY(open_images(context));
  nlohmann::json out = nlohmann::json::array();
  const auto act = [&](const std::string& file) -> Result<void> {
    const std::string name = vdisk::image_name_of(file);
    if (name.empty())
      return fail(0, fmt::format("{} gives no name: import it with --name", printable(file, 200)));
    auto image = images.find(name);
    const bool there = image.has_value();
    if (!there) image = import_one(context, images, file, name);
    if (!image) return fail(image.error());
    if (!json)
      return print(fmt::format("{}  {}{}\n", name, image->digest, there ? "  (was there)" : ""));
    out.push_back(image_json(images, *image));
    out.back()["was_there"] = there;
    return {};
  };
  const int code = UMWELT_TRY(for_each_name(files, act));
  if (json) UMWELT_CHECK(print_json(out));
  return code;
}

void add_import(CLI::App& image, Context& context) {
  struct Options {
    std::string name;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      add_command(image, context,
                  {.name = "import",
                   .summary = "Store a root filesystem that containers share",
                   .operands = "DIR|ARCHIVE|-",
                   .examples = "umwelt image import debian-12.tar.gz\n"
                               "umwelt image import --name alpine alpine-oci.tar\n"
                               "docker save web | umwelt image import --name web -\n",
                   .min_operands = 1,
                   .max_operands = 1,
                   .action = [&context, options](const Operands& operands) {
                     return import(context, options->name, options->json, operands.front());
                   }});
  add_parsed(
      *command, "--name", "NAME", parse_image_name,
      [options](std::string name) { options->name = std::move(name); },
      "its name (the file's, without its ending)");
  add_flag(*command, "--json", options->json, "print JSON");
}

void add_export(CLI::App& image, Context& context) {
  auto output = std::make_shared<std::string>();
  CLI::App* command = add_command(image, context,
                                  {.name = "export",
                                   .summary = "Write an image's root filesystem as a tar archive",
                                   .operands = "IMAGE",
                                   .examples = "umwelt image export web --output web.tar\n"
                                               "umwelt image export web | zstd > web.tar.zst\n",
                                   .min_operands = 1,
                                   .max_operands = 1,
                                   .action = [&context, output](const Operands& names) {
                                     return export_image(context, *output, names.front());
                                   }});
  add_text(*command, "-o,--output", "FILE", *output, "a new file (standard output)");
}

}  // namespace

void add_image(CLI::App& app, Context& context) {
  CLI::App* image = add_group(app, "image", "Look after root filesystems that containers share");
  add_import(*image, context);

  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      add_command(*image, context,
                  {.name = "ls",
                   .summary = "List the images",
                   .examples = "umwelt image ls\n",
                   .action = [&context, json](const Operands&) { return list(context, *json); }});
  add_flag(*command, "--json", *json, "print JSON");

  auto force = std::make_shared<bool>(false);
  command = add_command(*image, context,
                        {.name = "rm",
                         .summary = "Remove images that no container uses",
                         .operands = "IMAGE [IMAGE...]",
                         .examples = "umwelt image rm debian-12\n",
                         .min_operands = 1,
                         .max_operands = kAnyNumber,
                         .action = [&context, force, json](const Operands& names) {
                           return remove(context, *force, *json, names);
                         }});
  add_flag(*command, "-f,--force", *force, "also where a vdisk lies on it");
  add_flag(*command, "--json", *json, "print JSON");

  auto verify = std::make_shared<bool>(false);
  command = add_command(*image, context,
                        {.name = "inspect",
                         .summary = "Print what is known of images as JSON",
                         .operands = "IMAGE [IMAGE...]",
                         .examples = "umwelt image inspect web | jq '.[0].config'\n"
                                     "umwelt image inspect --verify web\n",
                         .min_operands = 1,
                         .max_operands = kAnyNumber,
                         .action = [&context, verify](const Operands& names) {
                           return inspect(context, *verify, names);
                         }});
  add_flag(*command, "--verify", *verify, "read it all and compare it with its digest");
  add_flag(*command, "--json", *json, "print JSON (it always does)");
  add_export(*image, context);

  auto prefetch_json = std::make_shared<bool>(false);
  command = add_command(*image, context,
                        {.name = "prefetch",
                         .summary = "Import archives that are not there yet, under their own names",
                         .operands = "ARCHIVE [ARCHIVE...]",
                         .examples = "umwelt image prefetch /srv/images/*.tar.zst\n",
                         .min_operands = 1,
                         .max_operands = kAnyNumber,
                         .action = [&context, prefetch_json](const Operands& files) {
                           return prefetch(context, *prefetch_json, files);
                         }});
  add_flag(*command, "--json", *prefetch_json, "print JSON");
}

}  // namespace umwelt::cli
