// SPDX-License-Identifier: Apache-2.0
#include "vdisk/late_library.h"

#include <dlfcn.h>

namespace umwelt::vdisk {

LateLibrary::LateLibrary(const char* name) : handle_(::dlopen(name, RTLD_NOW)) {
  if (handle_ == nullptr) error_ = ::dlerror();
}

Result<void> LateLibrary::loaded() const {
  if (!error_.empty()) return fail(0, error_);
  return {};
}

void* LateLibrary::address_of(const char* function) {
  void* address = handle_ == nullptr ? nullptr : ::dlsym(handle_, function);
  if (address == nullptr && error_.empty()) error_ = ::dlerror();
  return address;
}

}  // namespace umwelt::vdisk
