// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "oci/setup.h"
#include "targets.h"

int fuzz_oci_setup(const std::uint8_t* data, std::size_t size) {
  using namespace umwelt;
  using nlohmann::json;
  const std::string text(fuzz::text_of(data, size));
  if (const auto edited = oci::edit_docker_json(text, "umwelt", "/usr/bin/umwelt-runtime", "")) {
    if (json::accept(text)) {
      FUZZ_CHECK(json::accept(*edited));
      json after = json::parse(*edited);
      FUZZ_CHECK(after["default-runtime"] == "umwelt");
      FUZZ_CHECK(after["runtimes"]["umwelt"]["path"] == "/usr/bin/umwelt-runtime");
    }
    const auto restored = oci::restore_docker_json(*edited, text, "umwelt");
    FUZZ_CHECK(restored.has_value());
    if (json::accept(text)) FUZZ_CHECK(json::parse(*restored) == json::parse(text));
    // Once is enough.
    const auto again = oci::edit_docker_json(*edited, "umwelt", "/usr/bin/umwelt-runtime", "");
    FUZZ_CHECK(again && *again == *edited);
  }
  if (const auto edited = oci::edit_containerd_toml(text, "/usr/bin/umwelt-runtime")) {
    const auto again = oci::edit_containerd_toml(*edited, "/usr/bin/umwelt-runtime");
    FUZZ_CHECK(again && *again == *edited);
  }
  return 0;
}
