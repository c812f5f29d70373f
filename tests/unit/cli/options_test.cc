// SPDX-License-Identifier: Apache-2.0
#include "cli/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <CLI/CLI.hpp>

namespace umwelt::cli {
namespace {

using testing::HasSubstr;

template <class T>
std::string refusal(Result<T> (*parse)(std::string_view), std::string_view text) {
  const auto result = parse(text);
  if (result) return "(accepted)";
  EXPECT_EQ(result.error().code, 0) << "a sentence has no errno";
  EXPECT_THAT(result.error().text, testing::Not(HasSubstr("\n")));
  return result.error().text;
}

TEST(ParseCpus, TakesPlainDecimals) {
  EXPECT_EQ(parse_cpus("1"), 1.0);
  EXPECT_EQ(parse_cpus("1.5"), 1.5);
  EXPECT_EQ(parse_cpus(".5"), 0.5);
  EXPECT_EQ(parse_cpus("0.01"), 0.01);
  EXPECT_EQ(parse_cpus("8192"), 8192.0);
}

TEST(ParseCpus, RefusesEverythingElseWithTheRange) {
  for (const char* text :
       {"",         " ",       "nan",  "NaN",  "inf",     "-inf",
        "infinity", "1e9",     "1e-2", "0x2",  "0",       "0.0",
        "0.009",    "-1",      "-0.5", "+1",   "8192.01", "99999999999999999999999",
        "1.5.2",    "1,5",     "1.5 ", " 1.5", "1.5cpus", "two",
        "0.01x",    "\033[2J", "1\n"})
    EXPECT_THAT(refusal(parse_cpus, text), HasSubstr("from 0.01 to 8192")) << text;
}

TEST(ParseCpus, ShowsHostileWordsHarmlessAndShort) {
  EXPECT_EQ(refusal(parse_cpus, "\033[2J\n").substr(0, 8), "'?[2J?' ");
  EXPECT_LT(refusal(parse_cpus, std::string(100000, '9')).size(), 200U);
}

TEST(ParseMemory, TakesDockersUnits) {
  EXPECT_EQ(parse_memory("256m"), 256ULL << 20);
  EXPECT_EQ(parse_memory("256M"), 256ULL << 20);
  EXPECT_EQ(parse_memory("1.5g"), 1536ULL << 20);
  EXPECT_EQ(parse_memory("4194304"), 4ULL << 20);
  EXPECT_EQ(parse_memory("10GiB"), 10ULL << 30);
}

TEST(ParseMemory, RefusesEverythingElseWithTheRange) {
  for (const char* text : {"",
                           "nan",
                           "inf",
                           "1e9",
                           "0",
                           "-1",
                           "-256m",
                           "3m",
                           "4194303",
                           "1k",
                           "256x",
                           "256mm",
                           "m",
                           "1.5.2g",
                           "256 m",
                           "99999999999999999999",
                           "18446744073709551615",
                           "18446744073709551616g",
                           "4194305t",
                           "0x1000000"})
    EXPECT_THAT(refusal(parse_memory, text), HasSubstr("from 4m to 4194304t")) << text;
}

TEST(ParseCpuset, TakesListsAndRanges) {
  EXPECT_EQ(parse_cpuset("0-2,4")->list(), "0-2,4");
  EXPECT_EQ(parse_cpuset("1")->count(), 1U);
}

TEST(ParseCpuset, RefusesEverythingElse) {
  for (const char* text : {"", ",", "2-1", "1-", "-1", "a", "0,,1", "0-2,", "8192", "0-99999999999",
                           "1;2", "0x1", "1.5", "all"})
    EXPECT_THAT(refusal(parse_cpuset, text), HasSubstr("ascending ranges")) << text;
}

TEST(ParseNumbers, RefuseWhatIsOutOfRange) {
  for (const char* text : {"", "0", "1", "262145", "-2", "1024x", "1e3", "1.5", "nan"})
    EXPECT_THAT(refusal(parse_cpu_shares, text), HasSubstr("from 2 to 262144")) << text;
  for (const char* text : {"", "0", "999", "1000001", "-1000", "inf"})
    EXPECT_THAT(refusal(parse_cpu_period, text), HasSubstr("from 1000 to 1000000")) << text;
  for (const char* text : {"", "0", "999", "-1", "8192000001", "18446744073709551616"})
    EXPECT_THAT(refusal(parse_cpu_quota, text), HasSubstr("from 1000 to 8192000000")) << text;
  for (const char* text : {"", "0", "-1", "4194305", "many"})
    EXPECT_THAT(refusal(parse_pids_limit, text), HasSubstr("from 1 to 4194304")) << text;
  EXPECT_EQ(parse_cpu_shares("1024"), 1024U);
  EXPECT_EQ(parse_pids_limit("4194304"), 4194304U);
}

TEST(ParseSignal, TakesNamesAndNumbers) {
  EXPECT_EQ(parse_signal("TERM"), SIGTERM);
  EXPECT_EQ(parse_signal("SIGHUP"), SIGHUP);
  EXPECT_EQ(parse_signal("sigkill"), SIGKILL);
  EXPECT_EQ(parse_signal("9"), SIGKILL);
  for (const char* text : {"", "0", "-9", "65", "SIG", "TERMX", "SIGSIGTERM", "9.0"})
    EXPECT_THAT(refusal(parse_signal, text), HasSubstr("a signal")) << text;
}

TEST(ParseSignal, TakesRealTimeSignalsAsDockerDoes) {
  EXPECT_EQ(parse_signal("RTMIN"), SIGRTMIN);
  EXPECT_EQ(parse_signal("SIGRTMIN+3"), SIGRTMIN + 3);
  EXPECT_EQ(parse_signal("rtmin+30"), SIGRTMAX);
  EXPECT_EQ(parse_signal("SIGRTMAX"), SIGRTMAX);
  EXPECT_EQ(parse_signal("RTMAX-14"), SIGRTMAX - 14);
  for (const char* text : {"RTMIN+", "RTMIN-1", "RTMIN+31", "RTMIN3", "RTMAX+1", "RTMAX-31",
                           "RTMIN+3x", "RTMIN+-1", "SIGRTMIN+18446744073709551617"})
    EXPECT_THAT(refusal(parse_signal, text), HasSubstr("a signal")) << text;
}

TEST(ParsePolicies, NameTheirWords) {
  EXPECT_EQ(parse_cpu_policy("floor"), view::CpuPolicy::kFloor);
  EXPECT_EQ(parse_cpu_ids("dense"), view::CpuIds::kDense);
  EXPECT_EQ(parse_uptime_policy("host"), view::UptimePolicy::kHost);
  EXPECT_EQ(refusal(parse_cpu_policy, "round"), "'round' is not ceil, floor or cpuset");
  EXPECT_EQ(refusal(parse_cpu_ids, ""), "'' is not auto, dense or host");
}

TEST(ParseName, RefusesWhatCouldBeAPath) {
  EXPECT_EQ(parse_name("web-1.2_x"), "web-1.2_x");
  for (const char* text : {"", ".", "..", "a/b", "/a", "-a", "a b", "\xc3\xa4", "a\n"})
    EXPECT_THAT(refusal(parse_name, text), HasSubstr("1 to 64")) << text;
  EXPECT_THAT(refusal(parse_name, std::string(65, 'a')), HasSubstr("1 to 64"));
}

struct Parsed {
  CLI::App app{"", "test"};
  LimitOptions options;
  Parsed() { add_limit_options(app, options); }
  Result<launch::ResourceLimits> limits(std::vector<std::string> words,
                                        const launch::ResourceLimits& current = {}) {
    std::reverse(words.begin(), words.end());
    app.parse(words);
    return resource_limits(options, current);
  }
};

TEST(LimitOptions, CpusAreAQuota) {
  const auto limits = Parsed().limits({"--cpus", "1.5", "--cpuset", "0-1"});
  ASSERT_TRUE(limits);
  EXPECT_EQ(limits->bandwidth, (cgroup::Bandwidth{150000, 100000}));
  EXPECT_EQ(limits->cpuset_cpus->list(), "0-1");
  EXPECT_FALSE(limits->memory_bytes);
}

TEST(LimitOptions, TheLastOneCounts) {
  EXPECT_EQ(Parsed().limits({"--memory", "5m", "-m", "6m"})->memory_bytes, 6ULL << 20);
}

TEST(LimitOptions, AWrongValueNamesItsOption) {
  Parsed parsed;
  try {
    (void)parsed.limits({"--cpus", "nan"});
    FAIL() << "nan was taken";
  } catch (const CLI::ValidationError& error) {
    EXPECT_EQ(std::string(error.what()),
              "--cpus: 'nan' is not a number of CPUs from 0.01 to 8192, such as 1.5");
  }
}

TEST(LimitOptions, ContradictionsAreRefused) {
  EXPECT_THAT(Parsed().limits({"--cpus", "1", "--cpu-quota", "1000"}).error().text,
              HasSubstr("either --cpus or --cpu-quota"));
  EXPECT_THAT(Parsed().limits({"--cpu-period", "50000"}).error().text, HasSubstr("--cpu-quota"));
  EXPECT_THAT(Parsed().limits({"--cpu-quota", "8192000000", "--cpu-period", "1000"}).error().text,
              HasSubstr("8192"));
  EXPECT_THAT(Parsed().limits({"--memory-swap", "1g"}).error().text, HasSubstr("--memory"));
  EXPECT_THAT(Parsed().limits({"--memory", "1g", "--memory-swap", "512m"}).error().text,
              HasSubstr("1073741824"));
}

TEST(LimitOptions, SwapWithoutLimit) {
  const auto limits = Parsed().limits({"--memory", "1g", "--memory-swap", "-1"});
  ASSERT_TRUE(limits);
  EXPECT_TRUE(limits->memory_swap_unlimited);
  EXPECT_FALSE(limits->memory_swap_bytes);
}

TEST(LimitOptions, AnUpdateOfMemoryKeepsAsMuchSwap) {
  launch::ResourceLimits current;
  current.memory_bytes = 256ULL << 20;
  EXPECT_FALSE(Parsed().limits({"--memory", "1g"}, current)->memory_swap_bytes);
  current.memory_swap_bytes = 320ULL << 20;
  EXPECT_EQ(Parsed().limits({"--memory", "1g"}, current)->memory_swap_bytes, 1088ULL << 20);
  EXPECT_EQ(Parsed().limits({"--memory", "64m"}, current)->memory_swap_bytes, 128ULL << 20);
  EXPECT_FALSE(
      Parsed().limits({"--memory", "64m", "--memory-swap", "-1"}, current)->memory_swap_bytes);
  current.memory_swap_bytes.reset();
  current.memory_swap_unlimited = true;
  EXPECT_TRUE(Parsed().limits({"--memory", "1g"}, current)->memory_swap_unlimited);
  EXPECT_FALSE(
      Parsed().limits({"--memory", "1g", "--memory-swap", "2g"}, current)->memory_swap_unlimited);
}

TEST(LimitOptions, AnUpdateCountsWithWhatIsThere) {
  launch::ResourceLimits current;
  current.memory_bytes = 256ULL << 20;
  current.memory_swap_bytes = 512ULL << 20;
  current.bandwidth = cgroup::Bandwidth{50000, 100000};
  EXPECT_TRUE(Parsed().limits({"--memory", "1g", "--memory-swap", "1g"}, current));
  EXPECT_TRUE(Parsed().limits({"--memory-swap", "256m"}, current));
  EXPECT_THAT(Parsed().limits({"--memory-swap", "128m"}, current).error().text,
              HasSubstr("--memory-swap"));
  EXPECT_EQ(Parsed().limits({"--cpu-period", "50000"}, current)->bandwidth,
            (cgroup::Bandwidth{50000, 50000}));
  EXPECT_FALSE(Parsed().limits({"--pids-limit", "5"}, current)->memory_bytes)
      << "only changes are part of the result";
}

}  // namespace
}  // namespace umwelt::cli
