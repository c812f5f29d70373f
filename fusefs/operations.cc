// SPDX-License-Identifier: Apache-2.0
#include "fusefs/operations.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <new>
#include <variant>

#include "base/log.h"
#include "fusefs/connection.h"

namespace umwelt::fusefs {
namespace {

constexpr double kUnlimited = 1e9;            // seconds
constexpr std::size_t kMaxTriggerBytes = 64;  // the kernel looks at 32
constexpr int kTimes = FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                       FUSE_SET_ATTR_MTIME_NOW | FUSE_SET_ATTR_CTIME;

// What a request is answered with.
struct Nothing {};  // FORGET
struct Done {};
struct Found {
  fuse_entry_param entry;
};
struct Described {
  struct stat status;
  double timeout;
};
struct Opened {
  fuse_file_info info;
};
struct Part {
  Text text;
  std::size_t offset, size;
};
struct Written {
  std::size_t size;
};
struct Polled {
  unsigned events;
};
using Answer = std::variant<Nothing, Done, Found, Described, Opened, Part, Written, Polled,
                            std::string, struct statvfs>;

void send(fuse_req_t request, const Answer& answer) {
  struct Sender {
    fuse_req_t request;
    void operator()(const Nothing&) const { ::fuse_reply_none(request); }
    void operator()(const Done&) const { ::fuse_reply_err(request, 0); }
    void operator()(const Found& found) const { ::fuse_reply_entry(request, &found.entry); }
    void operator()(const Described& described) const {
      ::fuse_reply_attr(request, &described.status, described.timeout);
    }
    void operator()(const Opened& opened) const { ::fuse_reply_open(request, &opened.info); }
    void operator()(const Part& part) const {
      ::fuse_reply_buf(request, part.text->data() + part.offset, part.size);
    }
    void operator()(const Written& written) const { ::fuse_reply_write(request, written.size); }
    void operator()(const Polled& polled) const { ::fuse_reply_poll(request, polled.events); }
    void operator()(const std::string& bytes) const {
      ::fuse_reply_buf(request, bytes.data(), bytes.size());
    }
    void operator()(const struct statvfs& status) const { ::fuse_reply_statfs(request, &status); }
  };
  std::visit(Sender{request}, answer);
}

// At most one line a second: whoever can read a file can make its read fail.
void log_failure(const char* operation, const std::string& message) {
  static std::atomic<std::uint64_t> next_ns{0};
  static std::atomic<unsigned> suppressed{0};
  const std::uint64_t now_ns = monotonic_ns();
  std::uint64_t expected = next_ns.load(std::memory_order_relaxed);
  if (now_ns < expected || !next_ns.compare_exchange_strong(expected, now_ns + 1'000'000'000)) {
    ++suppressed;
    return;
  }
  spdlog::error("{}: {} ({} more before)", operation, message, suppressed.exchange(0));
}

Served& served(fuse_req_t request) { return *static_cast<Served*>(::fuse_req_userdata(request)); }

Filesystem& filesystem(fuse_req_t request) { return *served(request).filesystem; }

Result<Target> resolve(fuse_req_t request, fuse_ino_t node) {
  return filesystem(request).resolve(node, served(request).side, ::fuse_req_ctx(request)->pid);
}

// The only caller of fuse_reply_*. `body` returns a Result<Answer>.
template <class Body>
void serve(fuse_req_t request, const char* operation, Body body) {
  int code = EIO;
  try {
    const Result<Answer> answer = body();
    if (answer) return send(request, *answer);
    code = answer.error().code;
    if (code == EIO) log_failure(operation, answer.error().message());
  } catch (const std::bad_alloc&) {
    code = ENOMEM;
  } catch (const std::exception& e) {
    log_failure(operation, e.what());
  }
  ::fuse_reply_err(request, code);
}

Described describe(const Attributes& attributes) {
  Described result{};
  result.status.st_ino = attributes.node;
  result.status.st_mode = attributes.mode;
  result.status.st_nlink = S_ISDIR(attributes.mode) ? 2 : 1;
  result.status.st_size = static_cast<off_t>(attributes.size);
  result.status.st_mtim = result.status.st_ctim = result.status.st_atim = attributes.mtime;
  // Not less than the size, or wc(1) takes a part of it on trust. Also the buffer of stdio: the
  // whole file in one read(2).
  result.status.st_blksize = static_cast<blksize_t>(
      std::bit_ceil(std::clamp<std::uint64_t>(attributes.size, 4096, 1U << 20)));
  result.status.st_blocks = static_cast<blkcnt_t>((attributes.size + 511) / 512);  // no holes
  result.timeout = attributes.cacheable ? kUnlimited : 0;
  return result;
}

void on_init(void*, fuse_conn_info* connection) {
  connection->max_write = kMaxWrite;
  // Requests are received into a buffer that we choose.
  connection->want &= ~static_cast<unsigned>(FUSE_CAP_SPLICE_READ);
}

void answer_lookup(fuse_req_t request, fuse_ino_t parent, const std::string& name) {
  serve(request, "lookup", [&]() -> Result<Answer> {
    const Target directory = UMWELT_TRY(resolve(request, parent));
    const Attributes attributes = UMWELT_TRY(filesystem(request).look_up(directory, name));
    const Described described = describe(attributes);
    Found found{};
    found.entry.ino = attributes.node;
    found.entry.attr = described.status;
    found.entry.attr_timeout = described.timeout;
    found.entry.entry_timeout = attributes.name_cacheable ? kUnlimited : 0;
    return found;
  });
}

// Answers now, or when the change that the node's container is at is over.
template <class Body>
void serve_described(fuse_req_t request, fuse_ino_t node, Body answer) {
  Filesystem& files = filesystem(request);
  const Side side = served(request).side;
  if (!files.is_changing(node, side, ::fuse_req_ctx(request)->pid)) return answer();
  const auto kept = Connection::keep_request();
  if (!kept || !files.hold(node, side, [answer, kept] { answer(); })) answer();
}

void on_lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  serve_described(request, parent,
                  [=, name = std::string(name)] { answer_lookup(request, parent, name); });
}

void on_forget(fuse_req_t request, fuse_ino_t, std::uint64_t) {
  serve(request, "forget", []() -> Result<Answer> { return Nothing{}; });
}

void on_forget_multi(fuse_req_t request, std::size_t, fuse_forget_data*) {
  serve(request, "forget", []() -> Result<Answer> { return Nothing{}; });
}

void answer_getattr(fuse_req_t request, fuse_ino_t node) {
  serve(request, "getattr", [&]() -> Result<Answer> {
    const Target target = UMWELT_TRY(resolve(request, node));
    return describe(UMWELT_TRY(filesystem(request).attributes(target)));
  });
}

void on_getattr(fuse_req_t request, fuse_ino_t node, fuse_file_info*) {
  serve_described(request, node, [=] { answer_getattr(request, node); });
}

void on_readlink(fuse_req_t request, fuse_ino_t node) {
  serve(request, "readlink", [&]() -> Result<Answer> {
    const Target target = UMWELT_TRY(resolve(request, node));
    return UMWELT_TRY(filesystem(request).read_link(target));
  });
}

// Pressure files may be opened with O_TRUNC, which the kernel asks for after the open.
void on_setattr(fuse_req_t request, fuse_ino_t node, struct stat*, int to_set, fuse_file_info*) {
  serve(request, "setattr", [&]() -> Result<Answer> {
    const Target target = UMWELT_TRY(resolve(request, node));
    const Attributes attributes = UMWELT_TRY(filesystem(request).attributes(target));
    if ((attributes.mode & 0222) == 0 || (to_set & ~(FUSE_SET_ATTR_SIZE | kTimes)) != 0)
      return fail(EROFS, "setattr");
    return describe(attributes);
  });
}

// What would make another file.
template <class... Arguments>
void refuse(fuse_req_t request, Arguments...) {
  serve(request, "change", []() -> Result<Answer> { return fail(EROFS, "change"); });
}

void on_open(fuse_req_t request, fuse_ino_t node, fuse_file_info* info) {
  serve(request, "open", [&]() -> Result<Answer> {
    // Then the kernel opens, flushes and closes every file of this connection without asking.
    if (served(request).side == Side::kConfig) return fail(ENOSYS, "open");
    Opened opened{*info};
    opened.info.direct_io = 1;
    if ((info->flags & O_ACCMODE) == O_RDONLY) {
      opened.info.fh = filesystem(request).open_live();
    } else {
      const Target target = UMWELT_TRY(resolve(request, node));
      opened.info.fh = UMWELT_TRY(filesystem(request).open_for_writing(target));
    }
    return opened;
  });
}

void on_read(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset,
             fuse_file_info* info) {
  serve(request, "read", [&]() -> Result<Answer> {
    const Target target = UMWELT_TRY(resolve(request, node));
    Part part{};
    if (served(request).side == Side::kConfig) {
      part.text = UMWELT_TRY(filesystem(request).read_config(target));
    } else {
      // Not on behalf of a read(2), but to fill the page cache, for sendfile(2) or mmap(2). What is
      // in there would be old at the next read; EINVAL is what they say for "not with this file".
      if (info->lock_owner == 0) return fail(EINVAL, "read");
      part.text = UMWELT_TRY(
          filesystem(request).read_live(target, info->fh, offset, Connection::current_request()));
    }
    const std::size_t length = part.text->size();
    part.offset = std::min(static_cast<std::size_t>(offset), length);
    part.size = std::min(size, length - part.offset);
    return part;
  });
}

void on_write(fuse_req_t request, fuse_ino_t node, const char* text, std::size_t size, off_t,
              fuse_file_info* info) {
  // It is answered by another thread, later.
  const auto kept = Connection::keep_request();
  const auto done = [request, size, kept](Result<void> result) {
    serve(request, "write", [&]() -> Result<Answer> {
      UMWELT_CHECK(std::move(result));
      return Written{size};
    });
  };
  const auto arm = [&]() -> Result<void> {
    if (!kept) return fail(ENOSPC, "write");
    const Target target = UMWELT_TRY(resolve(request, node));
    return filesystem(request).arm_trigger(target, info->fh, ::fuse_req_ctx(request)->uid,
                                           {text, std::min(size, kMaxTriggerBytes)}, done);
  };
  if (auto begun = arm(); !begun) done(std::move(begun));
}

void on_poll(fuse_req_t request, fuse_ino_t node, fuse_file_info* info, fuse_pollhandle* poller) {
  // The kernel is told once, by writing to the descriptor that this request came from.
  std::shared_ptr<fuse_pollhandle> held(poller, [](fuse_pollhandle* handle) {
    if (handle != nullptr) ::fuse_pollhandle_destroy(handle);
  });
  serve(request, "poll", [&]() -> Result<Answer> {
    // Then the kernel answers for every file of this connection, as it does for those of /proc.
    if (served(request).side != Side::kPressure) return fail(ENOSYS, "poll");
    const Target target = UMWELT_TRY(resolve(request, node));
    Triggers::Wake wake;
    if (held) wake = [held] { ::fuse_lowlevel_notify_poll(held.get()); };
    return Polled{
        static_cast<unsigned>(filesystem(request).poll(target, info->fh, std::move(wake)))};
  });
}

void on_release(fuse_req_t request, fuse_ino_t, fuse_file_info* info) {
  serve(request, "release", [&]() -> Result<Answer> {
    filesystem(request).release_live(info->fh);
    return Done{};
  });
}

void on_readdir(fuse_req_t request, fuse_ino_t node, std::size_t size, off_t offset,
                fuse_file_info*) {
  serve(request, "readdir", [&]() -> Result<Answer> {
    const Target target = UMWELT_TRY(resolve(request, node));
    std::string buffer;
    for (const DirectoryItem& item : UMWELT_TRY(filesystem(request).list(target, offset))) {
      struct stat status {};
      status.st_ino = item.node;
      status.st_mode = item.mode;
      const std::size_t used = buffer.size();
      const std::size_t need =
          ::fuse_add_direntry(request, nullptr, 0, item.name.c_str(), nullptr, 0);
      if (used + need > size) break;
      buffer.resize(used + need);
      ::fuse_add_direntry(request, buffer.data() + used, need, item.name.c_str(), &status,
                          item.next_offset);
    }
    return buffer;
  });
}

void on_statfs(fuse_req_t request, fuse_ino_t) {
  serve(request, "statfs", []() -> Result<Answer> {
    struct statvfs status {};
    status.f_bsize = status.f_frsize = 4096;
    status.f_namemax = 255;
    return status;
  });
}

}  // namespace

const fuse_lowlevel_ops& operations() {
  static const fuse_lowlevel_ops table = [] {
    fuse_lowlevel_ops ops{};
    ops.init = on_init;
    ops.lookup = on_lookup;
    ops.forget = on_forget;
    ops.forget_multi = on_forget_multi;
    ops.getattr = on_getattr;
    ops.readlink = on_readlink;
    ops.open = on_open;
    ops.read = on_read;
    ops.write = on_write;
    ops.poll = on_poll;
    ops.setattr = on_setattr;
    ops.mknod = refuse;
    ops.mkdir = refuse;
    ops.unlink = refuse;
    ops.rmdir = refuse;
    ops.symlink = refuse;
    ops.rename = refuse;
    ops.link = refuse;
    ops.create = refuse;
    ops.release = on_release;
    ops.readdir = on_readdir;
    ops.statfs = on_statfs;
    return ops;
  }();
  return table;
}

}  // namespace umwelt::fusefs
