// SPDX-License-Identifier: Apache-2.0
// The files of /sys/devices/system/cpu itself; find_sys_file() of view/sys_files.h has those of
// cpuN.
#pragma once

#include <string>
#include <string_view>

#include "view/sys_files.h"

namespace umwelt::view {

std::string render_cpu_online(const Resources& r);
std::string render_cpu_offline(const Resources& r);
std::string render_cpu_possible(const Resources& r);
std::string render_cpu_present(const Resources& r);
std::string render_cpu_enabled(const Resources& r);
std::string render_cpu_isolated(const Resources& r);
std::string render_cpu_kernel_max(const Resources& r);

// A list or mask of physical CPUs, a mask in the width that it has, as the container sees it; ""
// for a text of another form.
std::string translate_list(const Cpus& cpus, std::string_view host_text);
std::string translate_mask(const Cpus& cpus, std::string_view host_text);

unsigned mask_bits(std::string_view mask);  // how wide it is: 4 for each digit

std::string line(std::string text);  // with a newline

}  // namespace umwelt::view
