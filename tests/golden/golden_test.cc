// SPDX-License-Identifier: Apache-2.0
// A case is a folder here: case.json names a recorded machine of tests/fixtures/hosts (or
// tells how to make one up) and what is known of the container, `root/` (optional) has files that
// replace recorded ones, `expected/` has every served file. UPDATE_GOLDEN=1 writes `expected/`
// anew.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "base/parse.h"
#include "cgroup/parse.h"
#include "cgroup/reader.h"
#include "fixtures/many_cpus.h"
#include "host/parse.h"
#include "host/reader.h"
#include "view/files.h"
#include "view/sys_files.h"

namespace umwelt::view {
namespace {

namespace fs = std::filesystem;

fs::path source_root() {
  const char* root = std::getenv("UMWELT_SOURCE_ROOT");
  return root != nullptr ? root : ".";
}

bool updating() {
  const char* update = std::getenv("UPDATE_GOLDEN");
  return update != nullptr && *update == '1';
}

template <class T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message());
  return std::move(*result);
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(source_root() / "tests/golden"))
    if (fs::exists(entry.path() / "case.json")) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

template <class T>
T choice(const nlohmann::json& options, const char* key, std::map<std::string, T> values) {
  return options.contains(key) ? values.at(options.at(key)) : T{};
}

Identity identity(const nlohmann::json& options, const host::Facts& facts) {
  Identity identity;
  identity.id = "web-1";
  identity.name = "web";
  identity.hostname = "web.example";
  identity.start_boottime_ns =
      facts.uptime->uptime_ns - options.at("age_s").get<std::uint64_t>() * 1'000'000'000;
  identity.start_realtime_s =
      static_cast<std::int64_t>(facts.stat->btime + identity.start_boottime_ns / 1'000'000'000);
  identity.time_namespace = options.value("time_namespace", true);
  identity.limited = options.value("limited", true);
  if (options.contains("disk_capacity_bytes"))
    identity.disk_capacity_bytes = options.at("disk_capacity_bytes").get<std::uint64_t>();
  if (options.contains("disk")) {
    const auto& disk = options.at("disk");
    identity.disk = Disk{disk.at("major"), disk.at("minor"), disk.at("name")};
  }
  identity.policy.cpu_policy = choice<CpuPolicy>(
      options, "cpu_policy",
      {{"ceil", CpuPolicy::kCeil}, {"floor", CpuPolicy::kFloor}, {"cpuset", CpuPolicy::kCpuset}});
  identity.policy.cpu_ids =
      choice<CpuIds>(options, "cpu_ids", {{"host", CpuIds::kHost}, {"dense", CpuIds::kDense}});
  identity.policy.uptime = choice<UptimePolicy>(options, "uptime", {{"host", UptimePolicy::kHost}});
  identity.policy.affinity_virtualised = options.value("affinity_virtualised", false);
  return identity;
}

// A container that is read once, `age_s` after its start.
Resources read_container(const fs::path& root, const nlohmann::json& options) {
  const auto host = must(host::Reader::open(root));
  host::Facts facts = must(host->read(~0U));
  const auto hierarchies =
      must(cgroup::Hierarchies::parse(must(read_file(root / "proc/self/mountinfo"))));
  const auto paths = must(cgroup::parse_proc_cgroup(must(read_file(root / "container.cgroup"))));
  cgroup::Reader reader = must(cgroup::Reader::open(hierarchies, paths, root));
  (void)must(reader.read_limits(facts.cpus->online));
  const cgroup::State state = must(reader.read(~0U));

  const Identity who = identity(options, facts);
  const Cpus cpus = choose_cpus(*facts.cpus, state.limits, who.policy);
  CpuSample cpu;
  cpu.boottime_ns = facts.uptime->uptime_ns;
  cpu.used = *state.cpu_time;
  for (const ShownCpu& shown : cpus.shown) cpu.shown.emplace_back(shown.id, shown.physical);
  cpu.processes = state.tasks->processes;
  LoadSample load;
  load.boottime_ns = cpu.boottime_ns;
  load.busy_ns = cpu.used.user_ns + cpu.used.nice_ns + cpu.used.system_ns + cpu.used.throttled_ns;
  load.active = state.tasks->running + state.tasks->uninterruptible;
  load.running = state.tasks->running;
  load.total = state.tasks->total;
  const CpuAccounting cpu_accounting = next({}, cpu, who.start_boottime_ns);
  const LoadAccounting load_accounting = next({}, load, who.start_boottime_ns);
  return resources(std::move(facts), state, who,
                   {cpu.boottime_ns, &cpu_accounting, &load_accounting});
}

// The files of one CPU or node, under the number that the container sees.
void render_sys(const Resources& r, const fs::path& root, const std::string& stem,
                unsigned physical, unsigned shown, const SysFile::Subject& subject,
                std::map<std::string, std::string>& served) {
  const fs::path of_host = root / (stem + std::to_string(physical));
  for (const auto& entry : fs::recursive_directory_iterator(of_host)) {
    const std::string path =
        stem + std::to_string(shown) + "/" + entry.path().lexically_relative(of_host).string();
    const SysFile* file = entry.is_regular_file() ? find_sys_file(path) : nullptr;
    if (file != nullptr) served[path] = file->render(r, subject, must(read_file(entry.path())));
  }
}

// path -> text of everything that is served.
std::map<std::string, std::string> render_all(const Resources& r, const fs::path& root) {
  std::map<std::string, std::string> served;
  for (const File& file : files()) served[std::string(file.path)] = file.render(r);
  for (const ShownCpu& cpu : r.cpus.shown)
    render_sys(r, root, "sys/devices/system/cpu/cpu", cpu.physical, cpu.id, {.cpu = &cpu}, served);
  for (const unsigned node : r.nodes.online.ids())
    render_sys(r, root, "sys/devices/system/node/node", node, node, {.node = node}, served);
  std::error_code none;
  for (const auto& size : fs::directory_iterator(root / "sys/kernel/mm/hugepages", none)) {
    const std::string name = size.path().filename();
    for (const auto& entry : fs::directory_iterator(size)) {
      const std::string path =
          "sys/kernel/mm/hugepages/" + name + "/" + entry.path().filename().string();
      if (const SysFile* file = find_sys_file(path))
        served[path] =
            file->render(r, {.page_bytes = cgroup::parse_huge_page_directory(name).value()},
                         must(read_file(entry.path())));
    }
  }
  return served;
}

// The root of the machine that a case is about; a temporary one, removed at the end, where it is
// not just a recorded one.
class Machine {
 public:
  Machine(const fs::path& folder, const nlohmann::json& options) {
    const fs::path replaced = folder / "root";
    if (options.contains("host"))
      root_ = source_root() / "tests/fixtures/hosts" / options.at("host").get<std::string>();
    if (!root_.empty() && !fs::exists(replaced)) return;
    char name[] = "/tmp/umwelt-golden.XXXXXX";
    if (::mkdtemp(name) == nullptr) throw std::runtime_error("mkdtemp");
    temporary_ = name;
    if (!root_.empty()) {
      fs::copy(root_, temporary_, fs::copy_options::recursive);
    } else {
      const auto set = [&](const char* key) {
        return CpuSet::parse(options.at(key).get<std::string>()).value();
      };
      fixtures::ManyCpus(temporary_, options.at("many_cpus")).write(set("cpuset"), set("mems"));
    }
    if (fs::exists(replaced))
      fs::copy(replaced, temporary_,
               fs::copy_options::recursive | fs::copy_options::overwrite_existing);
    root_ = temporary_;
  }
  ~Machine() {
    if (!temporary_.empty()) fs::remove_all(temporary_);
  }
  const fs::path& root() const { return root_; }

 private:
  fs::path root_, temporary_;
};

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, EveryFileIsAsExpected) {
  const fs::path folder = source_root() / "tests/golden" / GetParam();
  const auto options = nlohmann::json::parse(must(read_file(folder / "case.json")));
  const Machine machine(folder, options);
  const auto served = render_all(read_container(machine.root(), options), machine.root());

  const fs::path expected = folder / "expected";
  if (updating()) {
    fs::remove_all(expected);
    for (const auto& [path, text] : served) {
      fs::create_directories((expected / path).parent_path());
      ASSERT_TRUE(replace_file(expected / path, text));
    }
    return;
  }
  for (const auto& [path, text] : served) {
    const auto wanted = read_file(expected / path);
    ASSERT_TRUE(wanted) << wanted.error().message() << " (UPDATE_GOLDEN=1 writes it)";
    EXPECT_EQ(text, *wanted) << path;
  }
  for (const auto& entry : fs::recursive_directory_iterator(expected)) {
    if (entry.is_regular_file()) {
      EXPECT_TRUE(served.contains(entry.path().lexically_relative(expected)))
          << entry.path() << " is not served";
    }
  }
}

// On 512 CPUs that a container has all of.
TEST(ManyCpus, NoneIsLeftOut) {
  const nlohmann::json options = {{"many_cpus", 512},
                                  {"cpuset", "0-511"},
                                  {"mems", "0-7"},
                                  {"cpu_policy", "cpuset"},
                                  {"age_s", 100}};
  const Machine machine("/nonexistent", options);
  const auto served = render_all(read_container(machine.root(), options), machine.root());
  const auto lines = [&](const char* file, std::string_view start) {
    std::string_view rest = served.at(file);
    unsigned count = 0;
    while (const auto line = next_line(rest)) count += line->starts_with(start);
    return count;
  };
  EXPECT_EQ(lines("proc/cpuinfo", "processor"), 512U);
  EXPECT_EQ(lines("proc/stat", "cpu"), 513U);
  EXPECT_EQ(lines("proc/stat", "cpu511 "), 1U);
  EXPECT_EQ(lines("proc/schedstat", "cpu"), 512U);
  EXPECT_EQ(lines("proc/schedstat", "domain0 SMT"), 512U);
  EXPECT_EQ(lines("proc/zoneinfo", "    cpu: "), 8U * 512U);
  for (const char* file : {"proc/interrupts", "proc/softirqs"}) {
    const auto table = host::parse_per_cpu_table(served.at(file));
    ASSERT_TRUE(table) << file;
    EXPECT_EQ(table->cpus.size(), 512U) << file;
    EXPECT_EQ(table->cpus.back(), 511U) << file;
    EXPECT_EQ(table->rows.front().counts.size(), 512U) << file;
  }
  const auto stat = host::parse_stat(served.at("proc/stat"));
  ASSERT_TRUE(stat);
  std::uint64_t idle = 0;
  for (const auto& [id, ticks] : stat->cpus) idle += ticks.idle;
  EXPECT_EQ(stat->total.idle, idle);
}

INSTANTIATE_TEST_SUITE_P(Cases, Golden, ::testing::ValuesIn(case_names()),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return !std::isalnum(c); },
                               '_');
                           return name;
                         });

}  // namespace
}  // namespace umwelt::view
