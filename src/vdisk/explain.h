// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "base/result.h"

namespace umwelt::vdisk {

// An error of a store as a whole sentence (code 0) about `what` ("vdisk web", "image debian"), with
// what to do where that can be told. Other errors keep their code.
Error explain(const Error& error, const std::string& what);

}  // namespace umwelt::vdisk
