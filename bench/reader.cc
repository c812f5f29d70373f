// SPDX-License-Identifier: Apache-2.0
// Reads the same file as several filesystems serve it, and tells what each read cost. One read is
// open(2), read(2) to the end and close(2), as `cat` does it; with --one-read a single read(2), as
// of a program with a large buffer.
//
//   bench_reader --rounds N --batch N --readers N [--one-read] [--pause US] NAME=PATH[=PID]...
//
// A round reads every PATH `batch` times in each of `readers` threads, one PATH after the other,
// so that whatever else the machine does meets all of them alike; each round starts with another
// PATH. The first tenth of the rounds warms up and is not counted. PID is the process that serves
// the file: its CPU time is read before and after each batch. --pause sleeps after every read.
//
// Prints one JSON object: NAME -> latencies (ns), reads a second in the median of the batches, CPU
// time a read (ns) of the reader and of the server.
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

std::uint64_t ns_since(Clock::time_point start) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

struct Source {
  std::string name, path;
  pid_t server = 0;
  std::uint64_t bytes = 0;             // of the file, at the last read
  std::vector<std::uint32_t> latency;  // ns, of every counted read
  std::vector<std::uint64_t> wall_ns;  // of every counted batch
  std::uint64_t reader_cpu_ns = 0, server_cpu_ns = 0;
};

struct Manner {
  unsigned batch = 200, readers = 1;
  bool one_read = false;
  unsigned pause_us = 0;
};

// The number of bytes; ends the program when the file can't be read, since nothing is worth
// measuring then.
std::uint64_t read_once(const char* path, bool one_read) {
  char buffer[65536];
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  std::uint64_t total = 0;
  ssize_t got = fd < 0 ? -1 : 1;
  while (got > 0) {
    got = read(fd, buffer, sizeof buffer);
    if (got > 0) total += static_cast<std::uint64_t>(got);
    if (one_read && got > 0) break;
  }
  if (got < 0) {
    fmt::print(stderr, "bench_reader: {}: {}\n", path, std::strerror(errno));
    std::_Exit(1);
  }
  close(fd);
  return total;
}

// CPU time of a process in ns: the sum over its threads, as their schedstat says (the first
// number); /proc/PID/stat counts in ticks of 10 ms, which is too coarse for a batch.
std::uint64_t read_cpu_ns(pid_t pid) {
  if (pid == 0) return 0;
  const std::string tasks = fmt::format("/proc/{}/task", pid);
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir(tasks.c_str()), closedir);
  std::uint64_t total = 0;
  while (const dirent* entry = folder ? readdir(folder.get()) : nullptr) {
    if (entry->d_name[0] == '.') continue;
    const std::string path = fmt::format("{}/{}/schedstat", tasks, entry->d_name);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    char text[128] = {};
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) total += std::strtoull(text, nullptr, 10);
    if (fd >= 0) close(fd);
  }
  return total;
}

std::uint64_t own_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

void measure(Source& source, const Manner& manner, bool counted) {
  const unsigned batch = manner.batch, readers = manner.readers;
  std::vector<std::vector<std::uint32_t>> latency(readers, std::vector<std::uint32_t>(batch));
  // Without the start and the end of the threads.
  std::vector<Clock::time_point> begun(readers), ended(readers);
  std::uint64_t bytes = 0;
  std::uint64_t server_before = 0, own_before = 0;
  std::barrier gate(readers + 1);
  std::vector<std::thread> threads;
  for (unsigned r = 0; r < readers; ++r) {
    threads.emplace_back([&, r] {
      gate.arrive_and_wait();
      begun[r] = Clock::now();
      for (std::uint32_t& ns : latency[r]) {
        const auto begin = Clock::now();
        const std::uint64_t size = read_once(source.path.c_str(), manner.one_read);
        ns = static_cast<std::uint32_t>(std::min<std::uint64_t>(ns_since(begin), UINT32_MAX));
        if (r == 0) bytes = size;
        if (manner.pause_us != 0)
          std::this_thread::sleep_for(std::chrono::microseconds(manner.pause_us));
      }
      ended[r] = Clock::now();
    });
  }
  server_before = read_cpu_ns(source.server);
  own_before = own_cpu_ns();
  gate.arrive_and_wait();
  for (std::thread& thread : threads) thread.join();
  if (!counted) return;
  const auto wall =
      *std::max_element(ended.begin(), ended.end()) - *std::min_element(begun.begin(), begun.end());
  source.wall_ns.push_back(static_cast<std::uint64_t>(std::chrono::nanoseconds(wall).count()));
  source.reader_cpu_ns += own_cpu_ns() - own_before;
  source.server_cpu_ns += read_cpu_ns(source.server) - server_before;
  source.bytes = bytes;
  for (const auto& part : latency)
    source.latency.insert(source.latency.end(), part.begin(), part.end());
}

std::string json_of(Source& source) {
  std::sort(source.latency.begin(), source.latency.end());
  std::sort(source.wall_ns.begin(), source.wall_ns.end());
  const std::uint64_t median_ns = source.wall_ns[source.wall_ns.size() / 2];
  const std::size_t n = source.latency.size();
  const auto reads = static_cast<double>(n);
  const auto at = [&](double part) {
    return source.latency[std::min(n - 1, static_cast<std::size_t>(reads * part))];
  };
  return fmt::format(
      R"("{}":{{"bytes":{},"reads":{},"p50_ns":{},"p90_ns":{},"p99_ns":{},"reads_per_s":{:.0f},)"
      R"("reader_cpu_ns":{:.0f},"server_cpu_ns":{:.0f}}})",
      source.name, source.bytes, n, at(0.5), at(0.9), at(0.99),
      reads / static_cast<double>(source.wall_ns.size()) * 1e9 / static_cast<double>(median_ns),
      static_cast<double>(source.reader_cpu_ns) / reads,
      static_cast<double>(source.server_cpu_ns) / reads);
}

std::vector<Source> parse_sources(const std::vector<std::string>& words) {
  std::vector<Source> sources;
  for (const std::string& word : words) {
    const std::size_t first = word.find('='), second = word.find('=', first + 1);
    if (first == std::string::npos) return {};
    Source source;
    source.name = word.substr(0, first);
    source.path = word.substr(first + 1, second == std::string::npos ? second : second - first - 1);
    if (second != std::string::npos) source.server = std::atoi(word.c_str() + second + 1);
    sources.push_back(std::move(source));
  }
  return sources;
}

}  // namespace

int main(int argc, char** argv) {
  unsigned rounds = 50;
  Manner manner;
  std::vector<std::string> words;
  CLI::App app{"reads files and tells what it cost"};
  app.add_option("--rounds", rounds)->check(CLI::Range(1, 1000000));
  app.add_option("--batch", manner.batch)->check(CLI::Range(1, 1000000));
  app.add_option("--readers", manner.readers)->check(CLI::Range(1, 1000));
  app.add_flag("--one-read", manner.one_read);
  app.add_option("--pause", manner.pause_us)->check(CLI::Range(0, 1000000));
  app.add_option("NAME=PATH[=PID]", words)->required();
  CLI11_PARSE(app, argc, argv);
  std::vector<Source> sources = parse_sources(words);
  if (sources.empty()) return 2;

  for (unsigned round = 0; round < rounds; ++round)
    for (std::size_t i = 0; i < sources.size(); ++i)
      measure(sources[(round + i) % sources.size()], manner, round >= rounds / 10);

  std::string text;
  for (Source& source : sources) text += (text.empty() ? "{" : ",\n ") + json_of(source);
  fmt::print("{}}}\n", text);
  return 0;
}
