// SPDX-License-Identifier: Apache-2.0
#include "control/client.h"

#include <sys/socket.h>
#include <sys/time.h>

#include <nlohmann/json.hpp>

#include "container/json_fields.h"
#include "control/message.h"

namespace umwelt::control {
namespace {

constexpr int kMaxAttempts = 20;

Error unanswered(Error error) {
  if (error.code != EAGAIN) return error;
  return {ETIMEDOUT, "the daemon does not answer on its control socket"};
}

Result<container::Record> record_in(const nlohmann::json& reply) {
  const nlohmann::json* record = container::find_field(reply, "record");
  if (record == nullptr) return fail(EPROTO, "the daemon's reply has no record");
  return container::record_from_json(*record);
}

}  // namespace

Result<Client> Client::connect(const std::string& socket_path, std::chrono::milliseconds timeout) {
  const sockaddr_un address = UMWELT_TRY(socket_address(socket_path));
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("socket");
  const timeval limit = timeval_of(timeout);
  // SO_SNDTIMEO also bounds connect(), which waits while the daemon's backlog is full (unix(7)).
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) != 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0)
    return fail_errno("setsockopt");
  grow_buffers(fd.get());
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const Error error{errno, "connect " + socket_path};
    return fail(unanswered(error));
  }
  return Client(socket_path, timeout, std::move(fd));
}

Result<nlohmann::json> Client::call(const nlohmann::json& request) {
  auto reply = call_once(request);
  for (int i = 0; i < kMaxAttempts && !reply && reply.error().code == ECONNRESET; ++i) {
    auto next = connect(socket_path_, timeout_);
    if (!next) return reply;
    *this = *std::move(next);
    reply = call_once(request);
  }
  return reply;
}

Result<nlohmann::json> Client::call_once(const nlohmann::json& request) {
  UMWELT_CHECK(send(request));
  return receive();
}

Result<void> Client::send(const nlohmann::json& request) {
  const Result<void> sent = send_message(fd_.get(), request);
  // A daemon that refuses a peer says so and closes: its reply is there though the send failed.
  if (!sent && sent.error().code != EPIPE && sent.error().code != ECONNRESET)
    return fail(unanswered(sent.error()));
  return {};
}

Result<nlohmann::json> Client::receive() {
  Result<std::optional<nlohmann::json>> received = receive_message(fd_.get());
  // The kernel reports the reset, once, before the reply that is still queued.
  if (!received && received.error().code == ECONNRESET) received = receive_message(fd_.get());
  if (!received) return fail(unanswered(received.error()));
  if (!*received) return fail(ECONNRESET, "the daemon closed the control connection");
  nlohmann::json reply = std::move(**received);

  bool ok = false;
  UMWELT_CHECK(container::read_field(reply, "ok", ok));
  if (ok) return reply;
  Error error{EPROTO, "the daemon's reply says nothing"};
  UMWELT_CHECK(container::read_field(reply, "errno", error.code));
  UMWELT_CHECK(container::read_field(reply, "error", error.text));
  return fail(std::move(error));
}

Result<container::Record> Client::add(const container::Record& record) {
  return record_in(UMWELT_TRY(call({{"op", "register"}, {"record", container::to_json(record)}})));
}

Result<void> Client::remove(const std::string& id) {
  UMWELT_CHECK(call({{"op", "unregister"}, {"id", id}}));
  return {};
}

Result<std::vector<container::Record>> Client::list() {
  std::vector<container::Record> records;
  bool more = true;
  while (more) {
    const std::uint64_t after = records.empty() ? 0 : records.back().number;
    const nlohmann::json reply = UMWELT_TRY(call({{"op", "list"}, {"after", after}}));
    const nlohmann::json* page = container::find_field(reply, "records");
    if (page == nullptr || !page->is_array())
      return fail(EPROTO, "the daemon's reply has no records");
    for (const nlohmann::json& entry : *page)
      records.push_back(UMWELT_TRY(container::record_from_json(entry)));
    more = false;
    UMWELT_CHECK(container::read_field(reply, "more", more));
    if (more && (page->empty() || records.back().number <= after))
      return fail(EPROTO, "the daemon's list does not advance");
  }
  return records;
}

Result<nlohmann::json> Client::resources(const std::string& id) {
  nlohmann::json reply = UMWELT_TRY(call({{"op", "resources"}, {"id", id}}));
  const nlohmann::json* resources = container::find_field(reply, "resources");
  if (resources == nullptr) return fail(EPROTO, "the daemon's reply has no resources");
  return *resources;
}

Result<void> Client::refresh(const std::string& id) {
  UMWELT_CHECK(call({{"op", "refresh"}, {"id", id}}));
  return {};
}

}  // namespace umwelt::control
