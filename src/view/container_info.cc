// SPDX-License-Identifier: Apache-2.0
// The two forms of one table. docs/views/container_info.md has the source of each formula.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <variant>

#include "base/parse.h"
#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;

// monostate: there is no such limit; "" in the shell form, null in JSON.
using Value = std::variant<std::monostate, std::uint64_t, std::string>;

Value number(std::optional<std::uint64_t> value) {
  return value ? Value(*value) : Value(std::monostate());
}

// Names come from outside: no control characters, so that a line stays a line.
std::string printable(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return text;
}

std::uint64_t count(const Resources& r) { return r.cpus.count(); }

// Metaspace, code cache, thread stacks and buffers need room beside the heap: a quarter of the
// limit, and at least 256 MiB unless that is more than half.
std::optional<std::uint64_t> heap_bytes(const Resources& r) {
  if (!r.memory_max) return std::nullopt;
  const std::uint64_t limit = *r.memory_max;
  return limit - std::max(limit / 4, std::min(limit / 2, 256 * kMiB));
}

std::uint64_t parallel_gc_threads(std::uint64_t cpus) {
  return cpus <= 8 ? cpus : 8 + (cpus - 8) * 5 / 8;
}

std::uint64_t conc_gc_threads(std::uint64_t cpus) {
  return std::max<std::uint64_t>((parallel_gc_threads(cpus) + 2) / 4, 1);
}

std::uint64_t ci_compiler_count(std::uint64_t cpus) {
  const auto log2 = [](std::uint64_t n) {
    return static_cast<std::uint64_t>(std::bit_width(n) - 1);
  };
  const std::uint64_t log_cpu = log2(cpus);
  const std::uint64_t loglog_cpu = log2(std::max<std::uint64_t>(log_cpu, 1));
  return std::max<std::uint64_t>(log_cpu * loglog_cpu * 3 / 2, 2);
}

Value jvm_options(const Resources& r) {
  std::string text = fmt::format(
      "-XX:ActiveProcessorCount={} -XX:ParallelGCThreads={} -XX:ConcGCThreads={} "
      "-XX:CICompilerCount={}",
      count(r), parallel_gc_threads(count(r)), conc_gc_threads(count(r)),
      ci_compiler_count(count(r)));
  if (const auto heap = heap_bytes(r))
    fmt::format_to(std::back_inserter(text), " -XX:MaxHeapSize={}m", *heap / kMiB);
  return text;
}

// The numbers that sched_setaffinity(2) takes in the container.
std::vector<unsigned> affinity_ids(const Resources& r) {
  std::vector<unsigned> ids;
  for (const ShownCpu& cpu : r.cpus.shown)
    ids.push_back(r.identity.policy.affinity_virtualised ? cpu.id : cpu.physical);
  return ids;
}

// One mask for each worker, CPU 0 the last digit; for many workers nginx's "auto" with one mask.
Value nginx_affinity(const Resources& r) {
  constexpr std::size_t kMostMasks = 64;
  const std::vector<unsigned> ids = affinity_ids(r);
  const std::size_t width = *std::max_element(ids.begin(), ids.end()) + 1;
  std::string all(width, '0');
  std::string masks;
  for (const unsigned id : ids) {
    all[width - 1 - id] = '1';
    if (ids.size() > kMostMasks) continue;
    if (!masks.empty()) masks += ' ';
    std::string mask(width, '0');
    mask[width - 1 - id] = '1';
    masks += mask;
  }
  return ids.size() > kMostMasks ? "auto " + all : masks;
}

Value physical_list(const Resources& r) {
  CpuSet set;
  for (const ShownCpu& cpu : r.cpus.shown) set.set(cpu.physical);
  return set.list();
}

struct Row {
  std::string_view shell;
  std::string_view json;  // a JSON pointer
  Value (*value)(const Resources&);
};

constexpr Row kRows[] = {
    {"CONTAINER_ID", "/id", [](const Resources& r) { return Value(printable(r.identity.id)); }},
    {"CONTAINER_NAME", "/name",
     [](const Resources& r) { return Value(printable(r.identity.name)); }},
    {"CONTAINER_HOSTNAME", "/hostname",
     [](const Resources& r) { return Value(printable(r.identity.hostname)); }},
    {"CONTAINER_STARTED", "/started",
     [](const Resources& r) {
       return Value(
           static_cast<std::uint64_t>(std::max<std::int64_t>(r.identity.start_realtime_s, 0)));
     }},
    {"CONTAINER_CPUS", "/cpus", [](const Resources& r) { return Value(count(r)); }},
    {"CONTAINER_CPU_IDS", "/cpu_ids",
     [](const Resources& r) { return Value(r.cpus.online.list()); }},
    {"CONTAINER_CPU_PHYSICAL_IDS", "/cpu_physical_ids", physical_list},
    {"CONTAINER_CPUSET", "/cpuset",
     [](const Resources& r) { return Value(r.cpus.allowed.list()); }},
    {"CONTAINER_CPU_QUOTA_US", "/cpu_quota_us",
     [](const Resources& r) {
       return r.cpus.bandwidth ? Value(r.cpus.bandwidth->quota_us) : Value();
     }},
    {"CONTAINER_CPU_PERIOD_US", "/cpu_period_us",
     [](const Resources& r) {
       return r.cpus.bandwidth ? Value(r.cpus.bandwidth->period_us) : Value();
     }},
    {"CONTAINER_MEMORY_BYTES", "/memory_bytes",
     [](const Resources& r) { return number(r.memory_max); }},
    {"CONTAINER_SWAP_BYTES", "/swap_bytes", [](const Resources& r) { return number(r.swap_max); }},
    {"CONTAINER_PIDS", "/pids", [](const Resources& r) { return number(r.pids_max); }},
    {"CONTAINER_DISK_BYTES", "/disk_bytes",
     [](const Resources& r) { return number(r.identity.disk_capacity_bytes); }},
    {"JVM_ACTIVE_PROCESSOR_COUNT", "/suggestions/jvm/active_processor_count",
     [](const Resources& r) { return Value(count(r)); }},
    {"JVM_PARALLEL_GC_THREADS", "/suggestions/jvm/parallel_gc_threads",
     [](const Resources& r) { return Value(parallel_gc_threads(count(r))); }},
    {"JVM_CONC_GC_THREADS", "/suggestions/jvm/conc_gc_threads",
     [](const Resources& r) { return Value(conc_gc_threads(count(r))); }},
    {"JVM_CI_COMPILER_COUNT", "/suggestions/jvm/ci_compiler_count",
     [](const Resources& r) { return Value(ci_compiler_count(count(r))); }},
    {"JVM_MAX_HEAP_SIZE", "/suggestions/jvm/max_heap_size",
     [](const Resources& r) { return number(heap_bytes(r)); }},
    {"JVM_OPTIONS", "/suggestions/jvm/options", jvm_options},
    {"GOMAXPROCS", "/suggestions/gomaxprocs", [](const Resources& r) { return Value(count(r)); }},
    {"GOMEMLIMIT", "/suggestions/gomemlimit",
     [](const Resources& r) {
       return number(r.memory_max ? std::optional(mul_div(*r.memory_max, 9, 10)) : std::nullopt);
     }},
    {"NGINX_WORKER_PROCESSES", "/suggestions/nginx/worker_processes",
     [](const Resources& r) { return Value(count(r)); }},
    {"NGINX_WORKER_CPU_AFFINITY", "/suggestions/nginx/worker_cpu_affinity", nginx_affinity},
    {"UV_THREADPOOL_SIZE", "/suggestions/uv_threadpool_size",
     [](const Resources& r) { return Value(std::clamp<std::uint64_t>(count(r), 4, 1024)); }},
    {"NODE_OPTIONS", "/suggestions/node_options",
     [](const Resources& r) {
       const auto heap = heap_bytes(r);
       return heap ? Value(fmt::format("--max-old-space-size={}", *heap / kMiB)) : Value();
     }},
    {"OMP_NUM_THREADS", "/suggestions/omp_num_threads",
     [](const Resources& r) { return Value(count(r)); }},
};

// One word of sh(1), whatever the text.
void append_quoted(std::string& out, std::string_view text) {
  out += '\'';
  for (const char c : text) {
    if (c == '\'')
      out += R"('\'')";
    else
      out += c;
  }
  out += '\'';
}

}  // namespace

std::string render_container_info(const Resources& r) {
  std::string text;
  text.reserve(2048);
  for (const Row& row : kRows) {
    text += row.shell;
    text += '=';
    const Value value = row.value(r);
    if (const auto* plain = std::get_if<std::uint64_t>(&value))
      fmt::format_to(std::back_inserter(text), "{}", *plain);
    else if (const auto* words = std::get_if<std::string>(&value))
      append_quoted(text, *words);
    text += '\n';
  }
  return text;
}

std::string render_container_info_json(const Resources& r) {
  nlohmann::ordered_json json;
  for (const Row& row : kRows) {
    auto& place = json[nlohmann::ordered_json::json_pointer(std::string(row.json))];
    std::visit(
        [&](const auto& value) {
          if constexpr (std::is_same_v<std::decay_t<decltype(value)>, std::monostate>)
            place = nullptr;
          else
            place = value;
        },
        row.value(r));
  }
  // A name that is not UTF-8 is shown with replacement characters.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace umwelt::view
