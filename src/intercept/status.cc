// SPDX-License-Identifier: Apache-2.0
#include "intercept/status.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "base/file.h"
#include "base/parse.h"
#include "intercept/affinity.h"
#include "intercept/task.h"

namespace umwelt::intercept {
namespace {

// With an id of the reader's pid namespace, and with one for each namespace from there to the
// process's own.
constexpr std::array<std::string_view, 4> kIds = {"Tgid", "Pid", "PPid", "TracerPid"};
constexpr std::array<std::string_view, 4> kIdLists = {"NStgid", "NSpid", "NSpgid", "NSsid"};

template <std::size_t N>
bool is_one_of(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string_view last_word(std::string_view text) {
  std::string_view last;
  for (auto word = next_word(text); !word.empty(); word = next_word(text)) last = word;
  return last;
}

std::string translate_words(std::string_view words, char separator,
                            const std::function<std::uint64_t(std::uint64_t)>& name_of) {
  std::string out;
  for (auto word = next_word(words); !word.empty(); word = next_word(words)) {
    if (!out.empty()) out += separator;
    fmt::format_to(std::back_inserter(out), "{}", name_of(parse_u64(word).value_or(0)));
  }
  return out;
}

bool in_own_user_namespace(pid_t process) {
  struct stat own {
  }, theirs{};
  return ::stat("/proc/self/ns/user", &own) == 0 &&
         ::stat(fmt::format("/proc/{}/ns/user", process).c_str(), &theirs) == 0 &&
         own.st_ino == theirs.st_ino;
}

constexpr std::uint64_t kOverflowId = 65534;  // DEFAULT_OVERFLOWUID
constexpr std::string_view kStem = "process";
constexpr std::uint64_t kMaxPid = 4U << 20;  // PID_MAX_LIMIT
constexpr std::uint32_t kLibnumaBytes = 4096 / 8;

}  // namespace

std::string status_name(pid_t process) { return fmt::format("{}{}", kStem, process); }

std::optional<pid_t> parse_status_name(std::string_view name) {
  if (!name.starts_with(kStem)) return std::nullopt;
  const auto id = parse_u64(name.substr(kStem.size()));
  if (!id || *id == 0 || *id > kMaxPid || status_name(static_cast<pid_t>(*id)) != name)
    return std::nullopt;
  return static_cast<pid_t>(*id);
}

bool is_libnumas_first(const Request& request) {
  return request.call == Call::kSchedGetaffinity && request.pid_argument(0) == 0 &&
         request.u32_argument(1) == kLibnumaBytes;
}

std::string translate_status(std::string_view text, const view::Cpus& cpus, const Names& names) {
  const unsigned bits = cpus.possible.last().value_or(0) + 1;
  CpuSet shown;
  std::string out;
  const auto put = [&](std::string_view name, const auto& value) {
    fmt::format_to(std::back_inserter(out), "{}:\t{}\n", name, value);
  };
  while (const auto line = next_line(text)) {
    const std::string_view name = line->substr(0, line->find(':'));
    const std::string_view value = trim(line->substr(std::min(line->size(), name.size() + 1)));
    if (is_one_of(kIds, name)) {
      const auto id = static_cast<pid_t>(parse_u64(value).value_or(0));
      put(name, id == 0 ? 0 : names.process(id));
    } else if (is_one_of(kIdLists, name)) {
      put(name, last_word(value));
    } else if (name == "Uid") {
      put(name, translate_words(value, '\t', names.user));
    } else if (name == "Gid") {
      put(name, translate_words(value, '\t', names.group));
    } else if (name == "Groups") {
      put(name, translate_words(value, ' ', names.group) + " ");
    } else if (name == "Cpus_allowed") {
      shown = shown_affinity(cpus, CpuSet::parse_mask(value).value_or(CpuSet()));
      put(name, shown.mask(bits));
    } else if (name == "Cpus_allowed_list") {
      put(name, shown.list());
    } else {
      out.append(*line).append("\n");
    }
  }
  return out;
}

std::uint64_t translate_id(std::string_view map, std::uint64_t id) {
  while (auto line = next_line(map)) {
    const auto inside = parse_u64(next_word(*line)), outside = parse_u64(next_word(*line)),
               count = parse_u64(next_word(*line));
    if (inside && outside && count && id >= *outside && id - *outside < *count)
      return *inside + (id - *outside);
  }
  return kOverflowId;
}

Result<std::string> process_status(pid_t process, const view::Cpus& cpus) {
  const std::string proc = fmt::format("/proc/{}/", process);
  const bool own = in_own_user_namespace(process);
  const auto text = read_file(proc + "status"), users = read_file(proc + "uid_map"),
             groups = read_file(proc + "gid_map");
  if (!text || !users || !groups) return fail(ESRCH, fmt::format("process {}", process));
  const auto name = [own](const std::string& map) {
    return [&map, own](std::uint64_t id) { return own ? id : translate_id(map, id); };
  };
  return translate_status(*text, cpus,
                          {.process = [&](pid_t id) { return id_for(process, id).value_or(0); },
                           .user = name(*users),
                           .group = name(*groups)});
}

}  // namespace umwelt::intercept
