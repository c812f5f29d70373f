// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "oci/wrapper.h"

int main(int argc, char** argv) {
  umwelt::open_standard_descriptors();
  return umwelt::oci::run_wrapper(argc, argv);
}
