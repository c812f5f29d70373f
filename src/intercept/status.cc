// SPDX-License-Identifier: Apache-2.0
#include "intercept/status.h"

#include <fmt/format.h>

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

std::string translate_status(std::string_view text, const view::Cpus& cpus,
                             const std::function<pid_t(pid_t)>& id_of) {
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
      put(name, id == 0 ? 0 : id_of(id));
    } else if (is_one_of(kIdLists, name)) {
      put(name, last_word(value));
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

Result<std::string> process_status(pid_t process, const view::Cpus& cpus) {
  const auto text = read_file(fmt::format("/proc/{}/status", process));
  if (!text) return fail(ESRCH, fmt::format("process {}", process));
  return translate_status(*text, cpus, [&](pid_t id) { return id_for(process, id).value_or(0); });
}

}  // namespace umwelt::intercept
