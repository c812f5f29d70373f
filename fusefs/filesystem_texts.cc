// SPDX-License-Identifier: Apache-2.0
// What files have in them.
#include "fusefs/filesystem.h"
#include "intercept/status.h"
#include "intercept/task.h"

namespace umwelt::fusefs {

using Source = Entry::Source;

// The host's own file, of the physical CPU.
Result<std::string> Filesystem::host_path(const Target& target, const view::Resources& now) {
  unsigned number = target.id.instance.value_or(0);
  if (target.entry->scope == Scope::kCpu) {
    const view::ShownCpu* shown = now.cpus.by_id(number);
    if (shown == nullptr) return fail(ENOENT, "cpu directory");
    number = shown->physical;
  }
  if (target.entry->scope == Scope::kNode && !now.nodes.online.test(number))
    return fail(ENOENT, "node directory");
  return Tree::path_of(*target.entry, number);
}

Result<std::string> Filesystem::host_path(const Target& target) const {
  if (target.entry->scope == Scope::kContainer) return target.entry->path;
  return host_path(target, UMWELT_TRY(resources(target, 0)));
}

Result<std::string> Filesystem::render_sys_file(const Target& target) const {
  const view::SysFile& file = *target.entry->sys_file;
  const view::Resources now = UMWELT_TRY(resources(target, file.needs));
  const std::string path = UMWELT_TRY(host_path(target, now));
  const std::string host_text = UMWELT_TRY(host_.read_text(path));
  view::SysFile::Subject subject;
  subject.page_bytes = target.entry->page_bytes;
  if (target.entry->scope == Scope::kCpu) subject.cpu = now.cpus.by_id(*target.id.instance);
  if (target.entry->scope == Scope::kNode) subject.node = *target.id.instance;
  return file.render(now, subject, host_text);
}

// The number may be anybody's when the process has gone.
Result<std::string> Filesystem::render_status(const Target& target) const {
  const auto process = static_cast<pid_t>(target.id.key);
  const auto cpus = UMWELT_TRY(resources(target, view::kNeedLimits)).cpus;
  const auto born = UMWELT_TRY(container::read_starttime(process));
  if (!intercept::is_of_container(process, target.container->record()))
    return fail(ESRCH, "process");
  std::string text = UMWELT_TRY(intercept::process_status(process, cpus));
  if (UMWELT_TRY(container::read_starttime(process)) != born) return fail(ESRCH, "process");
  return text;
}

Result<std::string> Filesystem::render(const Target& target) const {
  switch (target.entry->source) {
    case Source::kView:
      return target.entry->file->render(UMWELT_TRY(resources(target, target.entry->file->needs)));
    case Source::kSysView:
      return render_sys_file(target);
    case Source::kHost:
      return host_.read_text(UMWELT_TRY(host_path(target)));
    case Source::kProcessStatus:
      return render_status(target);
    case Source::kHostLink:
    case Source::kCpuLink:
      return fail(EINVAL, "read");
    case Source::kDirectory:
    case Source::kHostDirectory:
      break;
  }
  return fail(EISDIR, "read");
}

}  // namespace umwelt::fusefs
