#include "checksum.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

// On ARM the instructions are an extension, which only this function is compiled for.
#if defined(__SSE4_2__) || defined(__ARM_FEATURE_CRC32)
#define TENFOLD_CRC
#elif defined(__aarch64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define TENFOLD_CRC __attribute__((target("+crc")))
#endif

namespace tenfold {
namespace {

#if defined(TENFOLD_CRC)

TENFOLD_CRC uint32_t by_instruction(const unsigned char* bytes, size_t size, uint32_t crc) {
    uint64_t state = crc;
    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t word;
        std::memcpy(&word, bytes, 8);
#if defined(__SSE4_2__)
        state = _mm_crc32_u64(state, word);
#else
        state = __crc32cd(uint32_t(state), word);
#endif
    }
    auto tail = uint32_t(state);
    for (; size > 0; --size, ++bytes) {
#if defined(__SSE4_2__)
        tail = _mm_crc32_u8(tail, *bytes);
#else
        tail = __crc32cb(tail, *bytes);
#endif
    }
    return tail;
}

#endif

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0x82F63B78 : value >> 1;
        table[byte] = value;
    }
    return table;
}

[[maybe_unused]] uint32_t by_table(const unsigned char* bytes, size_t size, uint32_t crc) {
    static constexpr std::array<uint32_t, 256> table = make_table();
    for (; size > 0; --size, ++bytes) crc = crc >> 8 ^ table[(crc ^ *bytes) & 255];
    return crc;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size, uint32_t crc) {
    const auto* bytes = static_cast<const unsigned char*>(data);
#if defined(__SSE4_2__) || defined(__ARM_FEATURE_CRC32)
    return ~by_instruction(bytes, size, ~crc);
#elif defined(TENFOLD_CRC)
    static const bool able = getauxval(AT_HWCAP) & HWCAP_CRC32;
    return ~(able ? by_instruction : by_table)(bytes, size, ~crc);
#else
    return ~by_table(bytes, size, ~crc);
#endif
}

}  // namespace tenfold
