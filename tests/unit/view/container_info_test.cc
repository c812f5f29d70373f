// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "make.h"

namespace umwelt::view {
namespace {

using ::testing::HasSubstr;

Resources container(unsigned cpus, std::optional<std::uint64_t> memory_max) {
  cgroup::State state = make_state(fmt::format("0-{}", cpus - 1));
  state.limits.memory_max_bytes = memory_max;
  return resources(make_host(1024, 64), state, make_identity(), {});
}

nlohmann::json suggestions(const Resources& r) {
  return nlohmann::json::parse(render_container_info_json(r)).at("suggestions");
}

TEST(ContainerInfo, JvmFormulasAreHotSpots) {
  struct Case {
    unsigned cpus, parallel, conc, compilers;
  };
  // java -XX:+PrintFlagsFinal -XX:+UseG1GC -XX:ActiveProcessorCount=N -version, OpenJDK 17
  for (const Case& c : {Case{1, 1, 1, 2},
                        {2, 2, 1, 2},
                        {4, 4, 1, 3},
                        {8, 8, 2, 4},
                        {16, 13, 3, 12},
                        {64, 43, 11, 18}}) {
    const nlohmann::json jvm = suggestions(container(c.cpus, std::nullopt)).at("jvm");
    EXPECT_EQ(jvm.at("active_processor_count"), c.cpus);
    EXPECT_EQ(jvm.at("parallel_gc_threads"), c.parallel) << c.cpus;
    EXPECT_EQ(jvm.at("conc_gc_threads"), c.conc) << c.cpus;
    EXPECT_EQ(jvm.at("ci_compiler_count"), c.compilers) << c.cpus;
    EXPECT_TRUE(jvm.at("max_heap_size").is_null());
  }
}

TEST(ContainerInfo, HeapLeavesRoomBesideIt) {
  const auto heap = [](std::uint64_t mib) {
    return suggestions(container(1, mib * kMiB)).at("jvm").at("max_heap_size").get<std::uint64_t>();
  };
  EXPECT_EQ(heap(256), 128 * kMiB);
  EXPECT_EQ(heap(512), 256 * kMiB);
  EXPECT_EQ(heap(1024), 768 * kMiB);
  EXPECT_EQ(heap(4096), 3072 * kMiB);
}

TEST(ContainerInfo, WithoutLimitsKeysAreThereAndEmpty) {
  const Resources r = container(2, std::nullopt);
  const std::string text = render_container_info(r);
  for (const char* line : {"\nCONTAINER_CPU_QUOTA_US=\n", "\nCONTAINER_MEMORY_BYTES=\n",
                           "\nCONTAINER_DISK_BYTES=\n", "\nGOMEMLIMIT=\n", "\nNODE_OPTIONS=\n"})
    EXPECT_THAT(text, HasSubstr(line));
  const nlohmann::json json = nlohmann::json::parse(render_container_info_json(r));
  EXPECT_TRUE(json.at("memory_bytes").is_null());
  EXPECT_EQ(json.at("cpu_ids"), "0-1");
}

TEST(ContainerInfo, NginxMasksAreTheNumbersThatTheSyscallTakes) {
  Identity identity = make_identity();
  identity.policy.cpu_ids = CpuIds::kDense;
  const auto affinity = [&] {
    const Resources r = resources(make_host(), make_state("1,4-5"), identity, {});
    return suggestions(r).at("nginx").at("worker_cpu_affinity").get<std::string>();
  };
  EXPECT_EQ(affinity(), "000010 010000 100000");
  identity.policy.affinity_virtualised = true;
  EXPECT_EQ(affinity(), "001 010 100");
  const std::string many =
      suggestions(container(1024, std::nullopt)).at("nginx").at("worker_cpu_affinity");
  EXPECT_EQ(many, "auto " + std::string(1024, '1'));
}

// The real shell reads what a hostile name made.
TEST(ContainerInfo, SourcingItRunsNothing) {
  Resources r = container(2, 256 * kMiB);
  r.identity.name = "a'; echo pwned; '$(echo pwned)`echo pwned`\nCONTAINER_CPUS=99\\";
  r.identity.hostname = "\xff\xfe\x1b[31m";
  char path[] = "/tmp/container_info.XXXXXX";
  const UniqueFd fd(::mkstemp(path));
  ASSERT_TRUE(fd);
  const std::string text = render_container_info(r);
  ASSERT_EQ(::write(fd.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  const std::string command =
      fmt::format("set -eu; . {}; printf '%s|%s' \"$CONTAINER_NAME\" \"$CONTAINER_CPUS\"", path);
  FILE* shell = ::popen(command.c_str(), "r");
  ASSERT_NE(shell, nullptr);
  std::string output(4096, '\0');
  output.resize(std::fread(output.data(), 1, output.size(), shell));
  EXPECT_EQ(::pclose(shell), 0);
  ::unlink(path);
  EXPECT_EQ(output, "a'; echo pwned; '$(echo pwned)`echo pwned`?CONTAINER_CPUS=99\\|2");
  EXPECT_EQ(nlohmann::json::parse(render_container_info_json(r)).at("cpus"), 2);
}

}  // namespace
}  // namespace umwelt::view
