// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/parse.h"
#include "cli/containers.h"
#include "cli/subprocess.h"

namespace umwelt::cli {
namespace {

// Runs on the host and in the container; asks every program that is installed. "$1" is a folder
// with the Go program, if there is one. Prints "KEY\tVALUE" lines.
constexpr const char* kProbe = R"sh(
say() { printf '%s\t%s\n' "$1" "$2"; }
have() { command -v "$1" >/dev/null 2>&1; }
PATH=$PATH:/usr/sbin:/sbin
have nproc && say nproc "$(nproc)"
say cpuinfo "$(grep -c '^processor' /proc/cpuinfo)"
say online "$(cat /sys/devices/system/cpu/online)"
say stat "$(grep -c '^cpu[0-9]' /proc/stat)"
have lscpu && say lscpu "$(LC_ALL=C lscpu | sed -n 's/^On-line CPU(s) list: *//p')"
have free && say free "$(free -m | awk '/^Mem:/ {print $2 " MiB"}')"
have free && say swap "$(free -m | awk '/^Swap:/ {print $2 " MiB"}')"
have uptime && say uptime "$(LC_ALL=C uptime -p)"
say load "$(cut -d' ' -f1-3 /proc/loadavg)"
if have top; then
  header=$(LC_ALL=C TERM=dumb top -b -n1 -w 200 | head -5)
  say top_tasks "$(echo "$header" | sed -n 's/^Tasks: *\([0-9]*\) total.*/\1/p')"
  say top_memory "$(echo "$header" | sed -n 's/^\(.iB\) Mem : *\([0-9.]*\) total.*/\2 \1/p')"
fi
have python3 && say python "$(python3 -c 'import os; print(os.cpu_count())')"
if have node; then
  say node_cpus "$(node -p 'os.cpus().length')"
  say node_memory "$(node -p 'Math.round(os.totalmem() / 1048576)') MiB"
  say node_uptime "$(node -p 'Math.round(os.uptime())') s"
fi
if have java; then
  jvm=$(java -Xlog:gc+init -version 2>/dev/null)
  say jvm_cpus "$(echo "$jvm" | sed -n 's/.*CPUs: .* \([0-9]*\) available.*/\1/p')"
  say jvm_heap "$(echo "$jvm" | sed -n 's/.*Heap Max Capacity: *\([0-9]*\)M.*/\1 MiB/p')"
fi
if [ -x "$1/go" ]; then "$1/go"; fi
if have nginx; then
  folder=$(mktemp -d)
  echo 'user root; worker_processes auto; pid pid; error_log stderr emerg; daemon off; events {}' \
    >"$folder/conf"
  nginx -p "$folder" -c "$folder/conf" 2>/dev/null &
  nginx=$!
  for try in 1 2 3 4 5 6 7 8 9 10; do
    sleep 0.1
    workers=$(cat "/proc/$nginx/task/$nginx/children" 2>/dev/null | wc -w)
    [ "$workers" = 0 ] || [ "$workers" != "$before" ] || break
    before=$workers
  done
  say nginx "$workers"
  kill "$nginx"; wait "$nginx" 2>/dev/null
  rm -rf "$folder"
fi
exit 0
)sh";

constexpr std::string_view kGoProgram = R"(package main

import (
    "fmt"
    "runtime"
)

func main() {
    fmt.Printf("go\t%d, %d\n", runtime.NumCPU(), runtime.GOMAXPROCS(0))
}
)";

struct Question {
  const char* key;
  const char* title;
  const char* asks;  // where the program looks
};
constexpr Question kQuestions[] = {
    {"nproc", "nproc", "sched_getaffinity"},
    {"cpuinfo", "processors in cpuinfo", "/proc/cpuinfo"},
    {"online", "CPUs online", "/sys/devices/system/cpu/online"},
    {"stat", "CPU lines in stat", "/proc/stat"},
    {"lscpu", "lscpu, on-line list", "/sys/devices/system/cpu"},
    {"free", "free, memory", "/proc/meminfo"},
    {"swap", "free, swap", "/proc/meminfo"},
    {"uptime", "uptime", "/proc/uptime"},
    {"load", "load average", "/proc/loadavg"},
    {"top_tasks", "top, tasks", "/proc/PID"},
    {"top_memory", "top, memory", "/proc/meminfo"},
    {"python", "Python os.cpu_count()", "/sys/devices/system/cpu/online"},
    {"node_cpus", "Node os.cpus().length", "/proc/stat, /proc/cpuinfo"},
    {"node_memory", "Node os.totalmem()", "/proc/meminfo"},
    {"node_uptime", "Node os.uptime()", "/proc/uptime"},
    {"jvm_cpus", "JVM availableProcessors()", "sched_getaffinity, cgroup"},
    {"jvm_heap", "JVM maxMemory()", "cgroup"},
    {"go", "Go NumCPU, GOMAXPROCS", "sched_getaffinity"},
    {"nginx", "nginx worker_processes auto", "/sys/devices/system/cpu/online"},
};

using Answers = std::map<std::string, std::string, std::less<>>;

Answers parse_answers(std::string_view text) {
  Answers answers;
  while (const auto line = next_line(text)) {
    const std::size_t tab = line->find('\t');
    if (tab != std::string_view::npos && tab + 1 < line->size())
      answers.emplace(line->substr(0, tab), line->substr(tab + 1));
  }
  return answers;
}

// A folder that goes with everything in it, unless something is still mounted there.
class ScratchFolder {
 public:
  static Result<ScratchFolder> make() {
    std::string path = "/tmp/umwelt-demo-XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) return fail_errno("making a folder in /tmp");
    return ScratchFolder(std::move(path));
  }
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ~ScratchFolder() {
    if (path_.empty()) return;
    const auto mounts = read_file("/proc/self/mountinfo");
    if (!mounts || mounts->find(" " + path_ + "/") != std::string::npos) {
      print_note("something is still mounted below " + path_ + ", so it is left there");
      return;
    }
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

struct Limits {
  std::string cpuset, cpus;
};

// Half of this machine's CPUs, and half of their time.
Result<Limits> half_of_this_machine() {
  const std::string text = UMWELT_TRY(read_file("/sys/devices/system/cpu/online"));
  const auto online = CpuSet::parse(text);
  if (!online || online->empty()) return fail(EPROTO, "parsing /sys/devices/system/cpu/online");
  const unsigned count = std::max(1U, online->count() / 2);
  // The upper half: that its numbers do not start at 0 shows more.
  const CpuSet half = *online - online->first(online->count() - count);
  return Limits{half.list(), cpus_text(count / 2.0)};
}

Result<void> build_go_program(const std::string& folder) {
  UMWELT_CHECK(replace_file(folder + "/go.go", kGoProgram));
  UMWELT_TRY(run_program({"sh", "-c",
                          "command -v go >/dev/null && cd \"$1\" && GOFLAGS= GO111MODULE=off "
                          "GOCACHE=\"$1/cache\" go build -o go go.go >&2",
                          "sh", folder}));
  return {};
}

std::string render(const Answers& host, const Answers& container) {
  Table table({{"", false}, {"HOST", false}, {"CONTAINER", false}, {"ASKS", false}});
  for (const Question& question : kQuestions) {
    const auto outside = host.find(question.key), inside = container.find(question.key);
    if (outside == host.end() && inside == container.end()) continue;
    const std::string a = outside == host.end() ? "-" : outside->second;
    const std::string b = inside == container.end() ? "-" : inside->second;
    table.add({question.title,
               a,
               {b, a == b ? Colour::kNone : Colour::kGreen},
               {question.asks, Colour::kDim}});
  }
  return table.render(colours(STDOUT_FILENO));
}

Result<Answers> ask(const char* where, std::vector<std::string> command) {
  const Progress progress(fmt::format("asking every program {}", where));
  const Finished finished = UMWELT_TRY(run_program(command));
  if (finished.exit_code != 0)
    return fail(0,
                fmt::format("the questions {} ended with exit code {}", where, finished.exit_code));
  return parse_answers(finished.output);
}

Result<int> demo() {
  if (::geteuid() != 0) return fail(0, "demo: only root can make a container, use sudo");
  // A Ctrl-C ends the programs that are asked; this one then still tidies up.
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, [](int) {});
  const Limits limits = UMWELT_TRY(half_of_this_machine());
  const ScratchFolder scratch = UMWELT_TRY(ScratchFolder::make());
  const std::string& folder = scratch.path();
  {
    const Progress progress("building the Go program");
    UMWELT_CHECK(build_go_program(folder));
  }
  const std::vector<std::string> umwelt = {"/proc/self/exe", "--runtime-dir", folder + "/run",
                                           "--state-dir", folder + "/state"};
  const auto with = [&umwelt](std::vector<std::string> more) {
    more.insert(more.begin(), umwelt.begin(), umwelt.end());
    return more;
  };
  const auto host = ask("on the host", {"sh", "-c", kProbe, "probe", folder});
  auto container =
      host ? ask("in the container",
                 with({"run", "--rm", "--name", "demo", "--cpuset-cpus", limits.cpuset, "--cpus",
                       limits.cpus, "--memory", "256m", "-v", folder + ":" + folder, "--", "sh",
                       "-c", kProbe, "probe", folder}))
           : host;
  const auto stopped = run_program(with({"daemon", "stop", "--force"}));
  if (!container) return fail(container.error());
  if (!stopped) return fail(stopped.error());

  const std::string command = fmt::format("umwelt run --cpuset-cpus {} --cpus {} --memory 256m",
                                          limits.cpuset, limits.cpus);
  UMWELT_CHECK(print(fmt::format("{}\n\n{}", command, render(*host, *container))));
  return 0;
}

}  // namespace

void add_demo(CLI::App& app, Context& context) {
  add_command(app, context,
              {.name = "demo",
               .summary = "Show what programs see in a container beside what they see outside",
               .examples = "umwelt demo\n",
               .action = [](const Operands&) { return demo(); }});
}

}  // namespace umwelt::cli
