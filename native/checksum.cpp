#include "checksum.h"

#include <array>
#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace tenfold {

#if defined(__SSE4_2__) || defined(__ARM_FEATURE_CRC32)

uint32_t crc32c(const void* data, size_t size, uint32_t crc) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    uint64_t state = ~crc;
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
    return ~tail;
}

#else

namespace {

constexpr std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; ++bit) value = value & 1 ? value >> 1 ^ 0x82F63B78 : value >> 1;
        table[byte] = value;
    }
    return table;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size, uint32_t crc) {
    static constexpr std::array<uint32_t, 256> table = make_table();
    const auto* bytes = static_cast<const unsigned char*>(data);
    crc = ~crc;
    for (; size > 0; --size, ++bytes) crc = crc >> 8 ^ table[(crc ^ *bytes) & 255];
    return ~crc;
}

#endif

}  // namespace tenfold
