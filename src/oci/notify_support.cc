// SPDX-License-Identifier: Apache-2.0
#include "oci/notify_support.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/child_process.h"
#include "base/file.h"
#include "base/parse.h"

namespace umwelt::oci {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxOutputBytes = 256U << 10;
constexpr std::size_t kMaxKeptBytes = 64U << 10;
constexpr std::size_t kMaxAnswers = 16;
constexpr std::chrono::seconds kPatience{5};  // many containers start with the machine
constexpr std::string_view kYes = "yes ", kNo = "no ";

using Version = std::pair<std::uint64_t, std::uint64_t>;  // of 1.1.5+ds1: 1, 1
constexpr Version kUnknown{0, 0}, kFirstRunc{1, 1}, kFirstCrun{1, 0}, kFirstLibseccomp{2, 5};

Version parse_numbers(std::string_view text) {
  const auto major = parse_u64(next_part(text, '.'));
  const auto minor = parse_u64(text.substr(0, text.find_first_not_of("0123456789")));
  return major && minor ? Version{*major, *minor} : kUnknown;
}

const json& member(const json& value, const char* key) {
  static const json none;
  const auto found = value.find(key);
  return found == value.end() ? none : *found;
}

// Of the file: it is another one after an upgrade.
Result<std::string> key_of(const std::string& runtime) {
  struct stat status {};
  if (::stat(runtime.c_str(), &status) != 0) return fail_errno("stat " + runtime);
  std::string key;
  for (const auto number :
       {static_cast<std::int64_t>(status.st_dev), static_cast<std::int64_t>(status.st_ino),
        status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_size})
    key += std::to_string(number) + " ";
  return key + runtime;
}

std::string_view path_of(std::string_view key) {
  for (int i = 0; i < 5; ++i) next_part(key, ' ');
  return key;
}

std::optional<std::string_view> key_in(std::string_view line) {
  for (const std::string_view answer : {kYes, kNo})
    if (line.starts_with(answer)) return line.substr(answer.size());
  return std::nullopt;
}

Result<std::string> read_own(const std::string& path) {
  const UniqueFd file =
      UMWELT_TRY(open_at(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return fail_errno("stat " + path);
  if (!S_ISREG(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 022) != 0)
    return fail(EPERM, "read " + path);
  if (status.st_size > static_cast<off_t>(kMaxKeptBytes)) return fail(EFBIG, "read " + path);
  std::string text;
  UMWELT_TRY(pread_all(file.get(), text));
  return text;
}

Result<bool> ask(const std::string& runtime) {
  const auto features = output_of({runtime, "features"}, kMaxOutputBytes, kPatience);
  if (!features && features.error().code != 0) return fail(features.error());
  if (const auto answer = features ? parse_features(*features) : std::nullopt) return *answer;
  return parse_version(UMWELT_TRY(output_of({runtime, "--version"}, kMaxOutputBytes, kPatience)));
}

}  // namespace

std::optional<bool> parse_features(const std::string& text) {
  const json features = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!features.is_object()) return std::nullopt;
  const json& seccomp = member(member(features, "linux"), "seccomp");
  const json& actions = member(seccomp, "actions");
  const json& library =
      member(member(features, "annotations"), "io.github.seccomp.libseccomp.version");
  const bool old = library.is_string() &&
                   parse_numbers(library.get_ref<const std::string&>()) < kFirstLibseccomp;
  return !old && member(seccomp, "enabled") != false && actions.is_array() &&
         std::find(actions.begin(), actions.end(), "SCMP_ACT_NOTIFY") != actions.end();
}

bool parse_version(std::string_view text) {
  std::string_view first = next_line(text).value_or("");
  const std::string_view name = next_word(first);
  if (next_word(first) != "version") return false;
  const Version version = parse_numbers(next_word(first));
  if (name == "runc") return version >= kFirstRunc;
  if (name != "crun" || version < kFirstCrun) return false;
  while (auto line = next_line(text))
    for (std::string_view word; !(word = next_word(*line)).empty();)
      if (word == "+SECCOMP") return true;
  return false;
}

std::optional<bool> find_answer(std::string_view kept, const std::string& key) {
  while (const auto line = next_line(kept))
    if (key_in(*line) == key) return line->starts_with(kYes);
  return std::nullopt;
}

std::string add_answer(std::string_view kept, const std::string& key, bool answer) {
  std::vector<std::string> lines = {std::string(answer ? kYes : kNo) + key};
  while (const auto line = next_line(kept)) {
    const auto other = key_in(*line);
    if (other && path_of(*other) != path_of(key) && lines.size() < kMaxAnswers)
      lines.emplace_back(*line);
  }
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

Result<bool> knows_notify(const std::string& runtime, const std::string& kept) {
  const std::string key = UMWELT_TRY(key_of(runtime));
  const std::string known = read_own(kept).value_or("");
  if (const auto answer = find_answer(known, key)) return *answer;
  const bool answer = UMWELT_TRY(ask(runtime));
  const std::string text = add_answer(known, key, answer);
  if (key.find('\n') == key.npos && text.size() <= kMaxKeptBytes)
    (void)replace_file(kept, text, 0600, /*durable=*/false);
  return answer;
}

}  // namespace umwelt::oci
