// SPDX-License-Identifier: Apache-2.0
#include "container/history.h"

#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/cpu_set.h"
#include "container/json_fields.h"

namespace umwelt::container {
namespace {

using nlohmann::json;

json numbers(std::initializer_list<std::uint64_t> values) { return json(values); }

json used_to_json(const cgroup::CpuTime& used) {
  return numbers({used.user_ns, used.nice_ns, used.system_ns, used.throttled_ns});
}

// An array of as many whole numbers as there are fields.
Result<void> read_numbers(const json* row, std::initializer_list<std::uint64_t*> fields) {
  if (row == nullptr || !row->is_array() || row->size() != fields.size())
    return fail(EINVAL, "a row of numbers");
  std::size_t i = 0;
  for (std::uint64_t* field : fields) {
    const json& value = (*row)[i++];
    if (!value.is_number_unsigned()) return fail(EINVAL, "a row of numbers");
    *field = value.get<std::uint64_t>();
  }
  return {};
}

Result<void> read_used(const json& object, const char* key, cgroup::CpuTime& used) {
  return read_numbers(find_field(object, key),
                      {&used.user_ns, &used.nice_ns, &used.system_ns, &used.throttled_ns});
}

Result<const json*> find_array(const json& object, const char* key) {
  const json* found = find_field(object, key);
  if (found == nullptr || !found->is_array() || found->size() > CpuSet::kMaxId + 1)
    return bad_field(key, "an array");
  return found;
}

bool valid_cpu(std::uint64_t id) { return id <= CpuSet::kMaxId; }

json cpu_to_json(const view::CpuAccounting& cpu) {
  json per_cpu = json::array(), by_id = json::array();
  for (const auto& [id, ns] : cpu.used.per_cpu) per_cpu.push_back(numbers({id, ns}));
  for (const auto& [id, time] : cpu.by_id)
    by_id.push_back(
        numbers({id, time.user_ns, time.nice_ns, time.system_ns, time.idle_ns, time.steal_ns}));
  return {{"boottime_ns", cpu.boottime_ns},
          {"used", used_to_json(cpu.used)},
          {"before", used_to_json(cpu.before)},
          {"per_cpu", std::move(per_cpu)},
          {"by_id", std::move(by_id)},
          {"pending", used_to_json(cpu.pending)},
          {"forks", cpu.forks},
          {"processes", cpu.processes}};
}

Result<view::CpuAccounting> cpu_from_json(const json& value) {
  view::CpuAccounting cpu;
  UMWELT_CHECK(read_field(value, "boottime_ns", cpu.boottime_ns));
  UMWELT_CHECK(read_used(value, "used", cpu.used));
  if (find_field(value, "before") != nullptr) UMWELT_CHECK(read_used(value, "before", cpu.before));
  UMWELT_CHECK(read_used(value, "pending", cpu.pending));
  UMWELT_CHECK(read_field(value, "forks", cpu.forks));
  UMWELT_CHECK(read_field(value, "processes", cpu.processes));
  const json* per_cpu = UMWELT_TRY(find_array(value, "per_cpu"));
  for (const json& row : *per_cpu) {
    std::uint64_t id = 0, ns = 0;
    UMWELT_CHECK(read_numbers(&row, {&id, &ns}));
    if (!valid_cpu(id)) return bad_field("per_cpu", "of CPUs");
    cpu.used.per_cpu.emplace_back(static_cast<unsigned>(id), ns);
  }
  const json* by_id = UMWELT_TRY(find_array(value, "by_id"));
  for (const json& row : *by_id) {
    std::uint64_t id = 0;
    view::ShownCpuTime time;
    UMWELT_CHECK(read_numbers(
        &row, {&id, &time.user_ns, &time.nice_ns, &time.system_ns, &time.idle_ns, &time.steal_ns}));
    if (!valid_cpu(id)) return bad_field("by_id", "of CPUs");
    cpu.by_id[static_cast<unsigned>(id)] = time;
  }
  return cpu;
}

json load_to_json(const view::LoadAccounting& load) {
  return {
      {"boottime_ns", load.boottime_ns}, {"load1", load.load1},     {"load5", load.load5},
      {"load15", load.load15},           {"busy_ns", load.busy_ns}, {"waited_ns", load.waited_ns},
      {"running", load.running},         {"total", load.total},     {"last_pid", load.last_pid}};
}

Result<view::LoadAccounting> load_from_json(const json& value) {
  view::LoadAccounting load;
  UMWELT_CHECK(read_field(value, "boottime_ns", load.boottime_ns));
  UMWELT_CHECK(read_field(value, "load1", load.load1));
  UMWELT_CHECK(read_field(value, "load5", load.load5));
  UMWELT_CHECK(read_field(value, "load15", load.load15));
  UMWELT_CHECK(read_field(value, "busy_ns", load.busy_ns));
  UMWELT_CHECK(read_field(value, "waited_ns", load.waited_ns));
  UMWELT_CHECK(read_field(value, "last_pid", load.last_pid));
  UMWELT_CHECK(read_field(value, "running", load.running));
  UMWELT_CHECK(read_field(value, "total", load.total));
  for (const double average : {load.load1, load.load5, load.load15})
    if (!std::isfinite(average) || average < 0) return bad_field("load", "an average");
  return load;
}

json io_to_json(const view::IoAccounting& io) {
  json rows = json::array();
  for (const auto& [device, counted] : io) {
    const auto& [last, lost] = counted;
    rows.push_back(numbers({device.first, device.second, last.read_bytes, last.written_bytes,
                            last.discarded_bytes, last.reads, last.writes, last.discards,
                            lost.read_bytes, lost.written_bytes, lost.discarded_bytes, lost.reads,
                            lost.writes, lost.discards}));
  }
  return rows;
}

// Absent in a history of an earlier version.
Result<view::IoAccounting> io_from_json(const json& history) {
  view::IoAccounting io;
  if (find_field(history, "io") == nullptr) return io;
  const json* rows = UMWELT_TRY(find_array(history, "io"));
  for (const json& row : *rows) {
    std::uint64_t major = 0, minor = 0;
    view::CountedIo counted;
    auto& [last, lost] = counted;
    UMWELT_CHECK(read_numbers(
        &row, {&major, &minor, &last.read_bytes, &last.written_bytes, &last.discarded_bytes,
               &last.reads, &last.writes, &last.discards, &lost.read_bytes, &lost.written_bytes,
               &lost.discarded_bytes, &lost.reads, &lost.writes, &lost.discards}));
    if (!std::in_range<unsigned>(major) || !std::in_range<unsigned>(minor))
      return bad_field("io", "of devices");
    last.major = static_cast<unsigned>(major);
    last.minor = static_cast<unsigned>(minor);
    io[{last.major, last.minor}] = counted;
  }
  return io;
}

}  // namespace

std::string history_to_text(const History& history) {
  return json{{"cpu", cpu_to_json(history.cpu)},
              {"load", load_to_json(history.load)},
              {"io", io_to_json(history.io)}}
      .dump();
}

Result<History> history_from_text(std::string_view text) {
  const json value = json::parse(text, nullptr, false);
  if (!value.is_object()) return fail(EINVAL, "a history must be a JSON object");
  const json* cpu = find_field(value, "cpu");
  const json* load = find_field(value, "load");
  if (cpu == nullptr || !cpu->is_object() || load == nullptr || !load->is_object())
    return fail(EINVAL, "a history needs \"cpu\" and \"load\"");
  History history;
  history.cpu = UMWELT_TRY(cpu_from_json(*cpu));
  history.load = UMWELT_TRY(load_from_json(*load));
  history.io = UMWELT_TRY(io_from_json(value));
  return history;
}

}  // namespace umwelt::container
