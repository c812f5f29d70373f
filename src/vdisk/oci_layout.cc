// SPDX-License-Identifier: Apache-2.0
#include "vdisk/oci_layout.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "vdisk/digest.h"

namespace umwelt::vdisk {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxJsonBytes = 8U << 20, kMaxLayers = 512;
constexpr int kMaxNesting = 4;

constexpr char kArchitecture[] = "amd64", kOlderArchitecture[] = "386";  // it runs both

tl::unexpected<Error> bad_layout(const std::string& why) {
  return fail(0, "not a good image archive: " + why);
}

// `docker save` wrote a layer that occurs twice as a symlink to the first one (before Docker 25).
Result<UniqueFd> open_regular(int directory, const std::string& path) {
  auto file = open_in_root(directory, path, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  if (!file || ::fstat(file->get(), &status) != 0 || !S_ISREG(status.st_mode))
    return bad_layout(fmt::format("{:?} is missing", path.substr(0, 120)));
  return file;
}

Result<json> read_json(int directory, const std::string& path) {
  const UniqueFd file = UMWELT_TRY(open_regular(directory, path));
  std::string text(kMaxJsonBytes, '\0');
  const ssize_t n = ::pread(file.get(), text.data(), text.size(), 0);
  if (n < 0) return fail_errno("read " + path);
  text.resize(static_cast<std::size_t>(n));
  // Nesting is limited: the parser and the destructor of json are recursive.
  int depth = 0;
  const auto shallow = [&depth](int level, json::parse_event_t, json&) {
    depth = std::max(depth, level);
    return level < 64;
  };
  json value = json::parse(text, shallow, false);
  if (value.is_discarded() || depth >= 64) return bad_layout(path + " is not good JSON");
  return value;
}

Result<std::string> blob_path(const json& descriptor) {
  const std::string digest = descriptor.at("digest").get<std::string>();
  if (!valid_digest(digest)) return bad_layout("a digest is not sha256:...");
  return "blobs/sha256/" + digest.substr(7);
}

Result<UniqueFd> open_blob(int directory, const json& descriptor) {
  const std::string path = UMWELT_TRY(blob_path(descriptor));
  UniqueFd blob = UMWELT_TRY(open_regular(directory, path));
  const std::string sum = UMWELT_TRY(sha256_of(blob.get()));
  if (sum != descriptor["digest"].get<std::string>().substr(7))
    return bad_layout(path + " is damaged: its digest is another one");
  return blob;
}

Result<json> read_blob_json(int directory, const json& descriptor) {
  UMWELT_TRY(open_blob(directory, descriptor));
  const std::string path = UMWELT_TRY(blob_path(descriptor));
  return read_json(directory, path);
}

std::string joined(const std::set<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.substr(0, 400);
}

// "linux/arm64", of what says it as an index or a config does; "" where that does not.
std::string platform_of(const json& object) {
  const std::string os = object.value("os", "linux"),
                    architecture = object.value("architecture", "");
  return os == "linux" && architecture.empty() ? "" : fmt::format("{}/{}", os, architecture);
}

// 0: of no use here; the most wanted has the largest number.
int use_of(const std::string& platform) {
  if (platform == std::string("linux/") + kArchitecture) return 3;
  if (platform.empty()) return 2;
  return platform == std::string("linux/") + kOlderArchitecture ? 1 : 0;
}

tl::unexpected<Error> refuse_platforms(const std::set<std::string>& platforms) {
  return fail(0, fmt::format("it is for {:?}, and this machine is linux/{}", joined(platforms),
                             kArchitecture));
}

tl::unexpected<Error> refuse_several(const std::set<std::string>& names) {
  return fail(0, fmt::format("it holds {} images ({:?}): make an archive of one alone",
                             names.size(), joined(names)));
}

std::string name_of(const json& manifest) {
  const json annotations = manifest.value("annotations", json::object());
  return annotations.value(
      "io.containerd.image.name",
      annotations.value("org.opencontainers.image.ref.name", manifest.value("digest", "")));
}

// Several names of one image have one digest. An index below the first is one image for several
// platforms.
Result<json> choose_manifest(const json& manifests, bool first_index) {
  if (!manifests.is_array() || manifests.empty()) return bad_layout("its index is empty");
  const json* chosen = nullptr;
  int best = 0;
  std::set<std::string> platforms, names;
  for (const json& m : manifests) {
    const std::string platform = platform_of(m.value("platform", json::object()));
    if (platform == "unknown/unknown") continue;  // what a builder attests of the others
    platforms.insert(platform);
    const int use = use_of(platform);
    if (use == 0 || use < best) continue;
    if (use > best) names.clear();
    if (use > best || m.at("digest") != chosen->at("digest")) names.insert(name_of(m));
    if (use > best) chosen = &m;
    best = use;
  }
  if (platforms.empty()) return bad_layout("its index is empty");
  if (chosen == nullptr) return refuse_platforms(platforms);
  if (first_index && names.size() > 1) return refuse_several(names);
  return *chosen;
}

// An image index may point to another one.
Result<json> find_manifest(int directory, json index) {
  for (int i = 0; i < kMaxNesting; ++i) {
    if (index.contains("layers")) return index;
    const json chosen = UMWELT_TRY(choose_manifest(index.at("manifests"), i == 0));
    index = UMWELT_TRY(read_blob_json(directory, chosen));
  }
  return bad_layout("its indexes are nested too deep");
}

std::vector<std::string> strings_of(const json& object, const char* key) {
  std::vector<std::string> list;
  if (object.contains(key) && object.at(key).is_array())
    for (const json& item : object.at(key)) list.push_back(item.get<std::string>());
  return list;
}

Result<ImageConfig> config_of(const json& whole) {
  if (const std::string platform = platform_of(whole); use_of(platform) == 0)
    return refuse_platforms({platform});
  ImageConfig config;
  const json object = whole.value("config", json::object());
  if (!object.is_object()) return config;
  config.environment = strings_of(object, "Env");
  config.entrypoint = strings_of(object, "Entrypoint");
  config.command = strings_of(object, "Cmd");
  config.workdir = object.value("WorkingDir", "");
  config.user = object.value("User", "");
  return config;
}

Result<OciImage> open_oci(int directory) {
  json index = UMWELT_TRY(read_json(directory, "index.json"));
  const json manifest = UMWELT_TRY(find_manifest(directory, std::move(index)));
  OciImage image;
  const json& layers = manifest.at("layers");
  if (layers.size() > kMaxLayers) return bad_layout("it has too many layers");
  for (const json& layer : layers) image.layers.push_back(UMWELT_TRY(open_blob(directory, layer)));
  if (manifest.contains("config")) {
    const json config = UMWELT_TRY(read_blob_json(directory, manifest["config"]));
    image.config = UMWELT_TRY(config_of(config));
  }
  return image;
}

Result<OciImage> open_docker(int directory) {
  const json list = UMWELT_TRY(read_json(directory, "manifest.json"));
  if (!list.is_array() || list.empty()) return bad_layout("manifest.json names no image");
  std::set<std::string> names;
  for (const json& m : list) {
    const json tags = m.value("RepoTags", json());
    names.insert(tags.is_array() && !tags.empty() ? tags.front().get<std::string>()
                                                  : m.at("Config").get<std::string>());
  }
  if (names.size() > 1) return refuse_several(names);
  const json& manifest = list.front();
  OciImage image;
  const json& layers = manifest.at("Layers");
  if (layers.size() > kMaxLayers) return bad_layout("it has too many layers");
  for (const json& layer : layers)
    image.layers.push_back(UMWELT_TRY(open_regular(directory, layer.get<std::string>())));
  const json config = UMWELT_TRY(read_json(directory, manifest.at("Config").get<std::string>()));
  image.config = UMWELT_TRY(config_of(config));
  return image;
}

bool has(int directory, const char* name) {
  struct stat status {};
  return ::fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode);
}

bool is_oci(int directory) { return has(directory, "oci-layout") && has(directory, "index.json"); }

// A root filesystem may have a manifest.json of its own.
bool is_docker(int directory) {
  const auto list = read_json(directory, "manifest.json");
  return list && list->is_array() && !list->empty() && list->front().contains("Layers") &&
         list->front().contains("Config");
}

}  // namespace

bool is_oci_layout(int directory) { return is_oci(directory) || is_docker(directory); }

Result<OciImage> open_oci_layout(int directory) try {
  OciImage image = UMWELT_TRY(is_oci(directory) ? open_oci(directory) : open_docker(directory));
  if (image.layers.empty()) return bad_layout("it has no layer");
  return image;
} catch (const json::exception&) {
  return bad_layout("its manifest lacks something, or has it in another form");
}

}  // namespace umwelt::vdisk
