// CRC-32C (Castagnoli), as in iSCSI and ext4; in hardware where the processor has it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

// Continues from `crc`, which is 0 at the start.
uint32_t crc32c(const void* data, size_t size, uint32_t crc = 0);

}  // namespace tenfold
