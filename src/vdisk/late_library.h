// SPDX-License-Identifier: Apache-2.0
// Shared libraries that are loaded when they are first needed: linking libarchive and libcrypto
// takes 4 ms, which every start of a container would pay, and only images need them.
#pragma once

#include <string>

#include "base/result.h"

namespace umwelt::vdisk {

// A library, by its name with the ABI version ("libarchive.so.13"), which stays loaded. A struct
// that inherits this has a member for each function, called like the function itself.
class LateLibrary {
 public:
  explicit LateLibrary(const char* name);
  // Code 0, a sentence: what is missing. Without it no function may be called.
  Result<void> loaded() const;

 protected:
  template <class Pointer>
  Pointer find(const char* function) {
    return reinterpret_cast<Pointer>(address_of(function));
  }

 private:
  void* address_of(const char* function);

  void* handle_;
  std::string error_;
};

}  // namespace umwelt::vdisk

// The type comes from the library's header, so the compiler checks the calls.
#define UMWELT_LATE(function) \
  decltype(&::function) function = find<decltype(&::function)>(#function)
