// SPDX-License-Identifier: Apache-2.0
#include "control/handler.h"

#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "container/explain.h"
#include "container/json_fields.h"

namespace umwelt::control {
namespace {

using container::Registry;
using nlohmann::json;

// Keeps a page of the list within the smallest buffer that a socket may have.
constexpr std::size_t kPageBytes = 64U << 10;

// A cgroup that a container keeps locked is told from one on a busy machine by waiting.
constexpr std::chrono::seconds kRefreshPatience{5};

Result<std::string> id_in(const json& request) {
  std::string id;
  UMWELT_CHECK(container::read_field(request, "id", id));
  if (!container::valid_id(id)) return fail(EINVAL, "\"id\" must be a container's id");
  return id;
}

Result<Registry::ContainerPtr> container_in(const Services& services, const json& request) {
  const std::string id = UMWELT_TRY(id_in(request));
  auto found = services.registry.find(id);
  if (!found) return fail(ENOENT, "container \"" + id + "\"");
  return found;
}

// As the files do it: while the limits can't be had, those of before are shown.
Result<void> refresh_if_free(const Services& services, const Registry::ContainerPtr& container) {
  auto done = services.refresh(container);
  if (!done && done.error().code == ETIMEDOUT) return {};
  return done;
}

Result<json> handle_ping(const Services& services, const json&) {
  const pid_t server = ::getpid();
  return json{{"version", UMWELT_VERSION},
              {"pid", services.keeper_pid ? services.keeper_pid() : server},
              {"server", server},
              {"attached", !services.attached || services.attached()}};
}

Result<json> handle_upgrade(const Services& services, const json& request) {
  std::string program;
  UMWELT_CHECK(container::read_field(request, "program", program));
  if (!program.empty() && program.front() != '/')
    return fail(EINVAL, "\"program\" must be an absolute path");
  if (!services.upgrade) return fail(ENOSYS, "upgrade");
  UMWELT_CHECK(services.upgrade(program));
  return json::object();
}

Result<json> handle_register(const Services& services, const json& request) {
  const json* record = container::find_field(request, "record");
  if (record == nullptr) return fail(EINVAL, "\"record\" is missing");
  container::Record wanted = UMWELT_TRY(container::record_from_json(*record));
  const auto added = UMWELT_TRY(services.registry.add(std::move(wanted)));
  return json{{"record", container::to_json(added->record())}};
}

Result<json> handle_unregister(const Services& services, const json& request) {
  const std::string id = UMWELT_TRY(id_in(request));
  UMWELT_CHECK(services.registry.remove(id));  // also where its cgroup can't be opened yet
  return json::object();
}

Result<json> handle_list(const Services& services, const json& request) {
  std::uint64_t after = 0;
  UMWELT_CHECK(container::read_field(request, "after", after));
  json records = json::array();
  bool more = false;
  std::size_t bytes = 0;
  for (const auto& container : services.registry.all()) {
    if (container->record().number <= after) continue;
    more = bytes >= kPageBytes;
    if (more) break;
    records.push_back(container::to_json(container->record()));
    bytes += records.back().dump().size();
  }
  return json{{"records", std::move(records)}, {"more", more}};
}

json usage_of(const view::Resources& resources) {
  std::uint64_t cpu_ns = 0, throttled_ns = 0;
  for (const view::ShownCpuTime& time : resources.cpu_times) {
    cpu_ns += time.user_ns + time.nice_ns + time.system_ns;
    throttled_ns += time.steal_ns;
  }
  return {{"memory_bytes", resources.memory.usage},
          {"cpu_ns", cpu_ns},
          {"throttled_ns", throttled_ns},
          {"tasks", resources.load.total},
          {"processes", resources.processes},
          {"load", {resources.load.load1, resources.load.load5, resources.load.load15}}};
}

Result<json> handle_resources(const Services& services, const json& request) {
  const auto container = UMWELT_TRY(container_in(services, request));
  UMWELT_CHECK(refresh_if_free(services, container));
  const view::Resources resources =
      UMWELT_TRY(container->resources(view::kNeedMemory | view::kNeedCpuTime | view::kNeedLoad |
                                      view::kNeedUptime | view::kNeedSwaps | view::kNeedTasks));
  json info = json::parse(view::render_container_info_json(resources), nullptr, false);
  if (!info.is_object()) return fail(EPROTO, "container_info.json is no object");
  info["usage"] = usage_of(resources);
  return json{{"resources", std::move(info)}};
}

Result<json> handle_refresh(const Services& services, const json& request) {
  const auto container = UMWELT_TRY(container_in(services, request));
  const auto deadline = std::chrono::steady_clock::now() + kRefreshPatience;
  auto done = services.refresh(container);
  while (!done && done.error().code == ETIMEDOUT && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    done = services.refresh(container);
  }
  UMWELT_CHECK(done);
  return json::object();
}

Result<json> handle_explain(const Services& services, const json& request) {
  std::string path;
  UMWELT_CHECK(container::read_field(request, "path", path));
  Registry::ContainerPtr container;
  if (container::find_field(request, "id") != nullptr) {
    container = UMWELT_TRY(container_in(services, request));
  } else {
    pid_t pid = 0;
    UMWELT_CHECK(container::read_field(request, "pid", pid));
    if (pid <= 0) return fail(EINVAL, "\"id\" or \"pid\" must say which container");
    container = UMWELT_TRY(services.registry.by_caller(pid));
  }
  UMWELT_CHECK(refresh_if_free(services, container));
  return json{{"lines", UMWELT_TRY(container::explain(*container, path))}};
}

struct Operation {
  std::string_view name;
  Result<json> (*handle)(const Services& services, const json& request);
};
constexpr Operation kOperations[] = {
    {"ping", handle_ping},       {"register", handle_register},   {"unregister", handle_unregister},
    {"list", handle_list},       {"resources", handle_resources}, {"refresh", handle_refresh},
    {"upgrade", handle_upgrade}, {"explain", handle_explain},
};

}  // namespace

Result<json> handle_request(const Services& services, const json& request) {
  std::string name;
  UMWELT_CHECK(container::read_field(request, "op", name));
  for (const Operation& operation : kOperations)
    if (operation.name == name) return operation.handle(services, request);
  return fail(ENOSYS, "unknown operation");
}

}  // namespace umwelt::control
