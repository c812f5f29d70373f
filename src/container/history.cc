// SPDX-License-Identifier: Apache-2.0
#include "container/history.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "base/cpu_set.h"

namespace umwelt::container {
namespace {

constexpr std::size_t kPerCpuWords = 2, kByIdWords = 6, kIoWords = 14;

// Every field that is there once, in turn.
template <class HistoryLike, class Field>
void each_field(HistoryLike& history, Field field) {
  auto& [cpu, load, io] = history;
  field(cpu.boottime_ns);
  for (auto* time : {&cpu.used, &cpu.before, &cpu.pending}) {
    field(time->user_ns);
    field(time->nice_ns);
    field(time->system_ns);
    field(time->throttled_ns);
  }
  field(cpu.forks);
  field(cpu.processes);
  field(load.boottime_ns);
  for (auto* average : {&load.load1, &load.load5, &load.load15}) field(*average);
  field(load.busy_ns);
  field(load.waited_ns);
  field(load.running);
  field(load.total);
  field(load.last_pid);
}

template <class Time, class Field>
void each_field_of_cpu(Time& time, Field field) {
  for (auto* value : {&time.user_ns, &time.nice_ns, &time.system_ns, &time.idle_ns, &time.steal_ns})
    field(*value);
}

template <class Io, class Field>
void each_field_of_device(Io& counted, Field field) {
  for (auto* io : {&counted.last, &counted.lost})
    for (auto* value : {&io->read_bytes, &io->written_bytes, &io->discarded_bytes, &io->reads,
                        &io->writes, &io->discards})
      field(*value);
}

class Writer {
 public:
  explicit Writer(std::span<std::uint64_t> words) : words_(words) {}
  void operator()(std::uint64_t value) { words_[next_++] = value; }
  void operator()(double value) { (*this)(std::bit_cast<std::uint64_t>(value)); }

 private:
  std::span<std::uint64_t> words_;
  std::size_t next_ = 0;
};

class Reader {
 public:
  explicit Reader(std::span<const std::uint64_t> words) : words_(words) {}
  bool has(std::size_t count) const { return words_.size() >= count; }
  bool at_end() const { return words_.empty(); }
  std::uint64_t next() {
    const std::uint64_t value = words_.front();
    words_ = words_.subspan(1);
    return value;
  }
  void operator()(std::uint64_t& value) { value = next(); }
  void operator()(double& value) { value = std::bit_cast<double>(next()); }

  // Calls `row` for each row of as many words, until one is bad.
  template <class Row>
  Result<void> rows(std::size_t words, Row row) {
    if (!has(1)) return fail(EINVAL, "a history that is cut short");
    const std::uint64_t count = next();
    if (count > words_.size() / words) return fail(EINVAL, "a history that is cut short");
    for (std::uint64_t i = 0; i < count; ++i)
      if (!row()) return fail(EINVAL, "a history of no such CPU or device");
    return {};
  }

 private:
  std::span<const std::uint64_t> words_;
};

std::size_t count_of_fields() {
  static const std::size_t count = [] {
    std::size_t fields = 0;
    const History history;
    each_field(history, [&](const auto&) { ++fields; });
    return fields;
  }();
  return count;
}

bool is_average(double value) { return std::isfinite(value) && value >= 0; }

}  // namespace

std::uint64_t History::sampled_ns() const { return std::max(cpu.boottime_ns, load.boottime_ns); }

std::size_t history_size(const History& history) {
  return count_of_fields() + 3 + kPerCpuWords * history.cpu.used.per_cpu.size() +
         kByIdWords * history.cpu.by_id.size() + kIoWords * history.io.size();
}

void put_history(const History& history, std::span<std::uint64_t> words) {
  Writer put(words);
  const auto put_field = [&](const auto& value) { put(value); };
  each_field(history, put_field);
  put(std::uint64_t{history.cpu.used.per_cpu.size()});
  for (const auto& [id, ns] : history.cpu.used.per_cpu) {
    put(std::uint64_t{id});
    put(ns);
  }
  put(std::uint64_t{history.cpu.by_id.size()});
  for (const auto& [id, time] : history.cpu.by_id) {
    put(std::uint64_t{id});
    each_field_of_cpu(time, put_field);
  }
  put(std::uint64_t{history.io.size()});
  for (const auto& [device, counted] : history.io) {
    put(std::uint64_t{device.first});
    put(std::uint64_t{device.second});
    each_field_of_device(counted, put_field);
  }
}

Result<History> take_history(std::span<const std::uint64_t> words) {
  Reader take(words);
  const auto take_field = [&](auto& value) { take(value); };
  if (!take.has(count_of_fields())) return fail(EINVAL, "a history that is cut short");
  History history;
  each_field(history, take_field);
  UMWELT_CHECK(take.rows(kPerCpuWords, [&] {
    const std::uint64_t id = take.next(), ns = take.next();
    history.cpu.used.per_cpu.emplace_back(static_cast<unsigned>(id), ns);
    return id <= CpuSet::kMaxId;
  }));
  UMWELT_CHECK(take.rows(kByIdWords, [&] {
    const std::uint64_t id = take.next();
    each_field_of_cpu(history.cpu.by_id[static_cast<unsigned>(id)], take_field);
    return id <= CpuSet::kMaxId;
  }));
  UMWELT_CHECK(take.rows(kIoWords, [&] {
    const std::uint64_t major = take.next(), minor = take.next();
    view::CountedIo counted;
    counted.last.major = static_cast<unsigned>(major);
    counted.last.minor = static_cast<unsigned>(minor);
    each_field_of_device(counted, take_field);
    history.io[{counted.last.major, counted.last.minor}] = counted;
    return std::in_range<unsigned>(major) && std::in_range<unsigned>(minor);
  }));
  const view::LoadAccounting& load = history.load;
  if (!take.at_end() || !is_average(load.load1) || !is_average(load.load5) ||
      !is_average(load.load15))
    return fail(EINVAL, "no history");
  return history;
}

}  // namespace umwelt::container
