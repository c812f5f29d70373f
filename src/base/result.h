// SPDX-License-Identifier: Apache-2.0
// How our functions fail: a value or an Error, never an exception across our own layers.
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace umwelt {

// What failed. `code` is an errno value, `text` names the operation and its object
// ("openat memory.max"), without the errno's own words.
struct Error {
  int code = 0;
  std::string text;

  // "openat memory.max: No such file or directory"
  std::string message() const { return code == 0 ? text : text + ": " + std::strerror(code); }
};

template <class T>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using tl::expected<T, Error>::expected;
};

inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }
inline tl::unexpected<Error> fail(int code, std::string text) {
  return fail(Error{code, std::move(text)});
}
// The calling thread's errno, which the caller must not have disturbed.
inline tl::unexpected<Error> fail_errno(std::string text) {
  const int code = errno;
  return fail(code, std::move(text));
}

}  // namespace umwelt

// The value of a Result, or return its error from the enclosing function.
#define UMWELT_TRY(expression)                            \
  __extension__({                                         \
    auto&& result_ = (expression);                        \
    if (!result_) return ::umwelt::fail(result_.error()); \
    std::move(*result_);                                  \
  })
// The same for Result<void>.
#define UMWELT_CHECK(expression)                                                                  \
  do {                                                                                            \
    if (auto result_ = (expression); !result_) return ::umwelt::fail(std::move(result_.error())); \
  } while (false)
