// SPDX-License-Identifier: Apache-2.0
// /proc/pressure (kernel/sched/psi.c).
#include <string>

#include "view/files.h"

namespace umwelt::view {
namespace {

constexpr std::string_view kNothing = " avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

// The text of the kernel; where it has none, that nothing ever waited.
std::string text_or_nothing(const std::optional<std::string>& text, bool some) {
  if (text && !text->empty()) return *text;
  std::string nothing;
  for (const std::string_view kind : {"some", "full"}) {
    if (kind == "some" && !some) continue;
    nothing += kind;
    nothing += kNothing;
  }
  return nothing;
}

}  // namespace

std::string render_pressure_cpu(const Resources& r) {
  return text_or_nothing(r.identity.limited ? r.pressure.cpu : r.host.pressure.cpu, true);
}
std::string render_pressure_io(const Resources& r) {
  return text_or_nothing(r.identity.limited ? r.pressure.io : r.host.pressure.io, true);
}
std::string render_pressure_irq(const Resources& r) {
  return text_or_nothing(r.identity.limited ? r.pressure.irq : r.host.pressure.irq, false);
}
std::string render_pressure_memory(const Resources& r) {
  return text_or_nothing(r.identity.limited ? r.pressure.memory : r.host.pressure.memory, true);
}

}  // namespace umwelt::view
