// Switches between stacks in a dozen instructions, and tells the sanitizer about it.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

extern "C" {
void emulator_switch(void** save, void* load);
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_poison_memory_region(const volatile void* address, size_t size);
void __asan_unpoison_memory_region(const volatile void* address, size_t size);
}

namespace emulator {

// Only pages that a kernel's frames reach are ever used.
constexpr size_t kStackBytes = 128 * 1024;
constexpr uint64_t kCanary = 0x5ca1ab1e0ddba11ull;

struct Stack {
  char* bottom = nullptr;
  void* top = nullptr;  // the saved stack pointer

  void allocate() {
    void* memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    bottom = static_cast<char*>(memory);
    *reinterpret_cast<uint64_t*>(bottom) = kCanary;
  }

  bool overflowed() const { return *reinterpret_cast<const uint64_t*>(bottom) != kCanary; }

  // The next switch to this stack calls entry(), which must not return.
  void begin(void (*entry)()) {
    auto* words = reinterpret_cast<void**>(bottom + kStackBytes);
#if defined(__x86_64__)
    *--words = nullptr;  // stands where a return address would be, and ends a backtrace
    *--words = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--words = nullptr;
#else
    for (int i = 0; i < 20; ++i) *--words = nullptr;
    words[11] = reinterpret_cast<void*>(entry);
#endif
    top = words;
  }
};

}  // namespace emulator
