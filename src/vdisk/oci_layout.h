// SPDX-License-Identifier: Apache-2.0
// A directory that holds an OCI image layout (image-spec, image-layout.md) or what `docker save`
// wrote: which layers make the root filesystem. Somebody else made it: names are resolved within
// it, blobs are checked against their digests.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace umwelt::vdisk {

// How the image wants to be run (image-spec, config.md).
struct ImageConfig {
  std::vector<std::string> environment, entrypoint, command;
  std::string workdir, user;
};

struct OciImage {
  std::vector<UniqueFd> layers;  // open for reading, the lowest first
  ImageConfig config;
};

bool is_oci_layout(int directory);

// An Error (code 0) is a sentence: also for an image that is not for this machine, and for several
// images. Of one for several platforms: that for Linux on this machine.
Result<OciImage> open_oci_layout(int directory);

}  // namespace umwelt::vdisk
