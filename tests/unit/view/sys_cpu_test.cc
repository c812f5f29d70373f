// SPDX-License-Identifier: Apache-2.0
#include "view/sys_cpu.h"

#include <gtest/gtest.h>

#include <set>

#include "make.h"

namespace umwelt::view {
namespace {

Resources container(std::string_view cpus, CpuIds ids) {
  Identity identity = make_identity();
  identity.policy.cpu_ids = ids;
  return resources(make_host(), make_state(cpus), identity, {});
}

std::string cpu_file(const Resources& r, unsigned id, const char* path, const char* host_text) {
  const SysFile* file = find_sys_file("sys/devices/system/cpu/cpu0/" + std::string(path));
  if (file == nullptr) return "passed through";
  return file->render(r, {.cpu = r.cpus.by_id(id)}, host_text);
}

TEST(SysCpu, Lists) {
  const Resources host = container("1,4-5", CpuIds::kHost);
  EXPECT_EQ(render_cpu_online(host), "1,4-5\n");
  EXPECT_EQ(render_cpu_offline(host), "0,2-3,6-15\n");
  EXPECT_EQ(render_cpu_possible(host), "0-15\n");
  EXPECT_EQ(render_cpu_present(host), "0-7\n");
  EXPECT_EQ(render_cpu_enabled(host), "0-7\n");
  EXPECT_EQ(render_cpu_isolated(host), "\n");
  EXPECT_EQ(render_cpu_kernel_max(host), "8191\n");
  const Resources dense = container("1,4-5", CpuIds::kDense);
  EXPECT_EQ(render_cpu_online(dense), "0-2\n");
  EXPECT_EQ(render_cpu_offline(dense), "\n");
  EXPECT_EQ(render_cpu_possible(dense), "0-2\n");
}

TEST(SysCpu, ListsAndMasksOfACpuNameShownCpusInTheHostsWidth) {
  const Resources host = container("1,4-5", CpuIds::kHost);
  EXPECT_EQ(cpu_file(host, 4, "topology/core_cpus_list", "4-5\n"), "4-5\n");
  EXPECT_EQ(cpu_file(host, 1, "topology/thread_siblings_list", "0-1\n"), "1\n");
  EXPECT_EQ(cpu_file(host, 4, "topology/package_cpus", "f0\n"), "30\n");
  EXPECT_EQ(cpu_file(host, 4, "topology/package_cpus", "00000000,000000f0\n"),
            "00000000,00000030\n");
  EXPECT_EQ(cpu_file(host, 4, "topology/package_cpus", "3,000000f0\n"), "0,00000030\n");
  EXPECT_EQ(cpu_file(host, 1, "cache/index3/shared_cpu_list", "0-3\n"), "1\n");
  const Resources dense = container("1,4-5", CpuIds::kDense);
  EXPECT_EQ(cpu_file(dense, 2, "cache/index12/shared_cpu_map", "f0\n"), "06\n");
  EXPECT_EQ(cpu_file(dense, 1, "topology/die_cpus_list", "4-7\n"), "1-2\n");
}

TEST(SysCpu, NumbersOfTheArrangementAgreeWithCpuinfo) {
  const Resources host = container("1,4-5", CpuIds::kHost);
  EXPECT_EQ(cpu_file(host, 4, "topology/physical_package_id", "3\n"), "3\n");
  EXPECT_EQ(cpu_file(host, 4, "topology/core_id", "8\n"), "8\n");
  const Resources dense = container("1,4-5", CpuIds::kDense);
  EXPECT_EQ(cpu_file(dense, 0, "topology/physical_package_id", "2\n"), "0\n");
  EXPECT_EQ(cpu_file(dense, 2, "topology/physical_package_id", "3\n"), "1\n");
  EXPECT_EQ(cpu_file(dense, 2, "topology/core_id", "8\n"), "0\n");
  EXPECT_EQ(cpu_file(dense, 2, "topology/die_id", "-1\n"), "-1\n");
}

TEST(SysCpu, OtherFilesArePassedThrough) {
  for (const char* path :
       {"cache/index0/size", "cache/index0", "cache/index/shared_cpu_map",
        "cache/indexx/shared_cpu_map", "cache/index-1/shared_cpu_map", "shared_cpu_map",
        "topology/core_cpus_lis", "topology/core_cpus_list2", "topology", "", "online"})
    EXPECT_EQ(find_sys_file("sys/devices/system/cpu/cpu3/" + std::string(path)), nullptr) << path;
}

TEST(SysCpu, ListsOfWordsAndOfNoHzCpus) {
  const auto file = [](const Resources& r, const std::string& path, const char* text) {
    return find_sys_file("sys/devices/system/cpu/" + path)->render(r, {}, text);
  };
  const Resources host = container("1,4-5", CpuIds::kHost);
  EXPECT_EQ(file(host, "cpufreq/policy4/affected_cpus", "4 5 6\n"), "4 5\n");
  EXPECT_EQ(file(host, "cpufreq/policy0/related_cpus", "0\n"), "\n");
  EXPECT_EQ(file(host, "cpufreq/policy4/freqdomain_cpus", "4 5 6\n"), "4 5\n");
  EXPECT_EQ(file(host, "nohz_full", "2-4\n"), "4\n");
  EXPECT_EQ(file(host, "nohz_full", "(null)\n"), "(null)\n");
  const Resources dense = container("1,4-5", CpuIds::kDense);
  EXPECT_EQ(file(dense, "cpufreq/policy4/affected_cpus", "4 5 6\n"), "1 2\n");
}

TEST(SysCpu, TextThatIsNoSetShowsNothing) {
  const Resources r = container("1", CpuIds::kHost);
  for (const char* text : {"", "\n", "xyz\n", "-", ",", "f-f"}) {
    EXPECT_EQ(cpu_file(r, 1, "topology/package_cpus", text), "") << text;
  }
  EXPECT_EQ(cpu_file(r, 1, "topology/package_cpus", std::string(100000, 'f').c_str()), "");
  EXPECT_EQ(cpu_file(r, 1, "topology/package_cpus_list", "5-1\n"), "");
}

TEST(Files, EveryPathIsThereOnceAndRenders) {
  const Resources r = container("1", CpuIds::kHost);
  std::set<std::string_view> paths;
  for (const File& file : files()) {
    EXPECT_TRUE(paths.insert(file.path).second) << file.path;
    EXPECT_EQ(find_file(file.path), &file);
    const std::string text = file.render(r);
    // Tables are those of the kernel, which this host lacks.
    constexpr unsigned kTables = kNeedDiskstats | kNeedVmstat | kNeedInterrupts | kNeedSoftirqs |
                                 kNeedSchedstat | kNeedZones | kNeedSlabinfo | kNeedControllers;
    if (text.empty() && (file.needs & kTables) != 0) continue;
    ASSERT_EQ(text.empty(), file.path == "proc/pagetypeinfo") << file.path;
    if (text.empty()) continue;
    EXPECT_EQ(text.back(), '\n') << file.path;
  }
  EXPECT_EQ(find_file("proc/meminf"), nullptr);
  EXPECT_EQ(find_file(""), nullptr);
}

}  // namespace
}  // namespace umwelt::view
