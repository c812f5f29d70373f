// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "fusefs/config_files.h"

namespace umwelt::fusefs {

// Texts in memory that outlives the server, by a number: what an opened file of the live connection
// was last given, so that a program that has read a part of it gets the rest of the same text from
// the next server, and not the end of a longer one; and what a node of the config connection was
// last described as, so that a size and a text belong together there, too.
//
// A ring: the texts of late, as many as there is room for. Thread-safe.
class Snapshots {
 public:
  struct Entry {
    std::atomic<std::uint64_t> handle;
    std::atomic<std::uint64_t> request;
    std::atomic<std::uint64_t> position;  // in the endless sequence of texts
    std::atomic<std::uint64_t> size;
  };
  static constexpr std::size_t kEntries = 16384;
  static constexpr std::size_t kRingBytes = 8U << 20;
  static constexpr std::size_t kPageBytes = 4096;
  struct Memory {
    std::atomic<std::uint64_t> end;
    alignas(kPageBytes) Entry entries[kEntries];
    char ring[kRingBytes];
  };

  // `memory` is all 0 at first, and outlives this.
  explicit Snapshots(void* memory) : memory_(*static_cast<Memory*>(memory)) {}

  // `handle` is not 0. `request` tells for which of its reads the text was made.
  void put(std::uint64_t handle, const Text& text, std::uint64_t request = 0);
  std::optional<std::string> get(std::uint64_t handle) const;
  // Only a text that was made for this request.
  std::optional<std::string> get(std::uint64_t handle, std::uint64_t request) const;

  // Forgets all texts, and gives their memory back to the kernel.
  void clear();

 private:
  static std::size_t place(std::uint64_t handle);
  bool holds(std::uint64_t position, std::size_t size) const;
  std::uint64_t append(const std::string& text);

  Memory& memory_;
};

}  // namespace umwelt::fusefs
