// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "oci/bundle.h"
#include "targets.h"

namespace {

using nlohmann::json;
using namespace umwelt;

oci::Additions additions(bool listens) {
  oci::Additions out;
  out.hook = {"/usr/bin/umwelt-runtime", "oci-hook"};
  out.container_id = "web";
  out.syscalls = {"sysinfo", "sched_getaffinity"};
  out.former_listener = "/run/umwelt/seccomp.sock";
  if (listens) out.seccomp_listener = out.former_listener;
  return out;
}

// Another parser's eyes: nothing changed but what had to.
void check_edit(const json& before, const std::string& edited) {
  FUZZ_CHECK(json::accept(edited));
  json after = json::parse(edited);
  for (const char* stage : {"createRuntime", "poststop"}) {
    bool ours = false;
    for (const json& hook : after["hooks"][stage])
      ours |= hook.is_object() && hook.value("path", json()) == "/usr/bin/umwelt-runtime";
    FUZZ_CHECK(ours);
  }
  FUZZ_CHECK(after.size() == before.size() + (before.contains("hooks") ? 0 : 1));
  for (const auto& [key, value] : before.items())
    if (key != "hooks" && key != "linux") FUZZ_CHECK(after.contains(key) && after[key] == value);
}

}  // namespace

int fuzz_oci_config(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  const auto config = oci::JsonText::parse(text);
  if (!config) return 0;
  FUZZ_CHECK(config->edited() == text);
  oci::Choice choice;
  (void)oci::read_choice(*config, &*config, choice);
  (void)oci::read_docker_name(*config);
  for (const bool listens : {true, false}) {
    const auto edited = oci::add_to_config(*config, additions(listens));
    if (!edited) continue;
    if (json::accept(text)) check_edit(json::parse(text), *edited);
    const auto again = oci::JsonText::parse(*edited);
    FUZZ_CHECK(again);
    const auto twice = oci::add_to_config(*again, additions(listens));
    FUZZ_CHECK(twice && *twice == *edited);
    const auto removed = oci::remove_from_config(*again, additions(listens));
    if (removed) FUZZ_CHECK(oci::JsonText::parse(*removed));
  }
  return 0;
}
