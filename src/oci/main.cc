// SPDX-License-Identifier: Apache-2.0
#include "oci/wrapper.h"

int main(int argc, char** argv) { return umwelt::oci::run_wrapper(argc, argv); }
