// SPDX-License-Identifier: Apache-2.0
#include "oci/notify_support.h"
#include "targets.h"

using namespace umwelt;

int fuzz_oci_features(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  (void)oci::parse_features(text);
  (void)oci::parse_version(text);
  const std::string key = "1 2 3 4 5 /usr/sbin/runc";
  std::string kept = text;
  for (const bool answer : {true, false}) {
    kept = oci::add_answer(kept, key, answer);
    FUZZ_CHECK(oci::find_answer(kept, key) == answer);
    FUZZ_CHECK(oci::add_answer(kept, key, answer) == kept);
  }
  return 0;
}
