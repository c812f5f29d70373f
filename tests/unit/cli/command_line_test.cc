// SPDX-License-Identifier: Apache-2.0
#include "cli/command_line.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

namespace umwelt::cli {
namespace {

using Words = std::vector<std::string>;

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest() {
    app_.add_option("--runtime-dir", text_, "where")->type_name("DIR");
    CLI::App* run = add_command(app_, context_,
                                {.name = "run",
                                 .summary = "Run",
                                 .operands = "[--] COMMAND [ARG...]",
                                 .options_end_at_operand = true,
                                 .action = {}});
    run->add_option("-m,--memory", text_, "memory")->type_name("SIZE");
    run->add_option("--cpus", text_, "cpus")->type_name("N");
    run->add_option("-e,--env", list_, "environment")->type_name("KEY=VALUE");
    run->add_flag("-i,--interactive", flag_, "stdin");
    run->add_flag("-t,--tty", flag_, "terminal");
    CLI::App* stop = add_command(
        app_, context_, {.name = "stop", .summary = "Stop", .operands = "NAME", .action = {}});
    stop->add_option("-t,--time", text_, "grace")->type_name("SECONDS");
    CLI::App* daemon = app_.add_subcommand("daemon", "Daemon");
    add_command(*daemon, context_, {.name = "start", .summary = "Start", .action = {}});
  }

  CommandLine split(const Words& words) {
    CommandLine line;
    const auto result = split_command_line(app_, context_, words, line);
    error_ = result ? "" : result.error().text;
    return line;
  }

  CLI::App app_{"Test", "umwelt"};
  Context context_;
  std::string text_, error_;
  Words list_;
  bool flag_ = false;
};

TEST_F(CommandLineTest, RunsOptionsEndAtItsCommand) {
  const CommandLine line =
      split({"run", "-it", "--memory=1g", "--cpus", "2", "sh", "-c", "exit 3", "--help"});
  EXPECT_EQ(error_, "");
  EXPECT_EQ(line.words, (Words{"run", "-i", "-t", "--memory", "1g", "--cpus", "2"}));
  EXPECT_EQ(line.operands, (Words{"sh", "-c", "exit 3", "--help"}));
}

TEST_F(CommandLineTest, OperandsAreLeftAsTheyAre) {
  EXPECT_EQ(split({"run", "--", "--memory", "[a,b]", "", "--", "%%"}).operands,
            (Words{"--memory", "[a,b]", "", "--", "%%"}));
  EXPECT_EQ(split({"run", "echo", "--", "x"}).operands, (Words{"echo", "--", "x"}));
  EXPECT_EQ(split({"stop", "stop"}).operands, Words{"stop"}) << "a container named like a command";
  EXPECT_EQ(split({"stop", "-"}).operands, Words{"-"});
}

TEST_F(CommandLineTest, OptionsMayFollowNames) {
  const CommandLine line = split({"stop", "web", "-t", "5", "db", "--runtime-dir", "/x"});
  EXPECT_EQ(line.words, (Words{"stop", "-t", "5", "--runtime-dir", "/x"}));
  EXPECT_EQ(line.operands, (Words{"web", "db"}));
}

TEST_F(CommandLineTest, ShortOptionsStandTogether) {
  EXPECT_EQ(split({"run", "-im1g", "true"}).words, (Words{"run", "-i", "-m", "1g"}));
  EXPECT_EQ(split({"run", "-im", "1g", "true"}).words, (Words{"run", "-i", "-m", "1g"}));
  EXPECT_EQ(split({"stop", "-t5", "web"}).words, (Words{"stop", "-t", "5"}));
}

TEST_F(CommandLineTest, AValueMayLookLikeAnOption) {
  EXPECT_EQ(split({"run", "--memory", "-1", "true"}).words, (Words{"run", "--memory", "-1"}));
  EXPECT_EQ(split({"run", "--memory=", "true"}).words, (Words{"run", "--memory", ""}));
}

TEST_F(CommandLineTest, NestedCommands) {
  const CommandLine line = split({"--runtime-dir", "/x", "daemon", "start"});
  EXPECT_EQ(full_name(*line.command), "umwelt daemon start");
  EXPECT_EQ(line.words, (Words{"--runtime-dir", "/x", "daemon", "start"}));
}

TEST_F(CommandLineTest, MistakesAreNamedWithWhatWasMeant) {
  split({"rnu"});
  EXPECT_EQ(error_, "unknown command rnu; did you mean run?");
  split({"daemon", "sart"});
  EXPECT_EQ(error_, "daemon: unknown command sart; did you mean start?");
  split({"run", "--memroy", "1g"});
  EXPECT_EQ(error_, "run: unknown option --memroy; did you mean --memory?");
  split({"run", "--colour=red"});
  EXPECT_EQ(error_, "run: unknown option --colour; see umwelt run --help");
  split({"run", "-ix", "true"});
  EXPECT_EQ(error_, "run: unknown option -x; see umwelt run --help");
  split({"run", "--memory"});
  EXPECT_EQ(error_, "run: --memory needs a value");
  split({"\033[2J"});
  EXPECT_EQ(error_, "unknown command ?[2J; see umwelt --help");
}

TEST_F(CommandLineTest, DockersWordsLeadToOurs) {
  split({"top", "web"});
  EXPECT_EQ(error_, "unknown command top; did you mean exec NAME ps?");
  split({"images"});
  EXPECT_EQ(error_, "unknown command images; did you mean image ls?");
  split({"-v"});
  EXPECT_EQ(error_, "unknown option -v; did you mean --version?");
  split({"run", "--net=host", "true"});
  EXPECT_EQ(error_, "run: unknown option --net; did you mean --network?");
  split({"daemon", "top"});
  EXPECT_EQ(error_, "daemon: unknown command top; see umwelt daemon --help");
}

TEST_F(CommandLineTest, HelpShowsUsageOptionsAndExamples) {
  const std::string help = render_help(*app_.get_subcommand("run"), context_, 80);
  EXPECT_NE(help.find("Usage: umwelt run [OPTIONS] [--] COMMAND [ARG...]\n"), std::string::npos)
      << help;
  EXPECT_NE(help.find("  -m, --memory SIZE"), std::string::npos) << help;
  EXPECT_NE(help.find("      --cpus N"), std::string::npos) << help;
}

TEST(Nearest, IsCarefulWithGuesses) {
  const Words names = {"ps", "run", "inspect", "logs"};
  EXPECT_EQ(nearest("inspcet", names), "inspect");
  EXPECT_EQ(nearest("log", names), "logs");
  EXPECT_EQ(nearest("ls", names), "ps");
  EXPECT_EQ(nearest("start", names), "");
  EXPECT_EQ(nearest("", names), "");
  EXPECT_EQ(nearest(std::string(100000, 'a'), names), "");
}

}  // namespace
}  // namespace umwelt::cli
