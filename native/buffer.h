// An array that is not filled in. A large one goes back to the system as soon as it is freed: of what malloc is given
// back, it may keep up to twice the largest array that it has seen.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace tenfold {

template <typename T>
class Buffer {
    static_assert(std::is_trivial_v<T>);

  public:
    Buffer() = default;
    explicit Buffer(size_t count) : count_(count) {
        if (count > std::numeric_limits<size_t>::max() / sizeof(T)) throw std::bad_alloc();
        void* const memory = is_large() ? map(count * sizeof(T)) : std::malloc(count * sizeof(T) + 1);
        if (!memory) throw std::bad_alloc();
        data_ = static_cast<T*>(memory);
    }
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() {
        if (is_large())
            munmap(data_, count_ * sizeof(T));
        else
            std::free(data_);
    }

    T* data() const { return data_; }
    size_t size() const { return count_; }

  private:
#if defined(__SANITIZE_ADDRESS__)
    static constexpr size_t kLarge = std::numeric_limits<size_t>::max();  // whose bounds it would not check
#else
    static constexpr size_t kLarge = 1 << 20;  // bytes; what is smaller malloc has at hand
#endif

    static void* map(size_t bytes) {
        void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
        madvise(memory, bytes, MADV_HUGEPAGE);  // small pages, each new to the process, take a batch 1 % of its time
#endif
        return memory;
    }

    bool is_large() const { return count_ * sizeof(T) >= kLarge; }
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
    }

    T* data_ = nullptr;
    size_t count_ = 0;
};

// Bytes that begin at a multiple of a power of two, as O_DIRECT and huge pages want it.
struct FreeBytes {
    void operator()(std::byte* memory) const { std::free(memory); }
};
using AlignedBytes = std::unique_ptr<std::byte, FreeBytes>;

inline AlignedBytes aligned_bytes(size_t alignment, size_t bytes) {
    AlignedBytes memory(static_cast<std::byte*>(std::aligned_alloc(alignment, bytes)));
    if (!memory) throw std::bad_alloc();
    return memory;
}

}  // namespace tenfold
