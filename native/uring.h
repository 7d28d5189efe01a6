// io_uring through raw system calls: the kernel header suffices, no liburing.
#pragma once

#include <cstddef>
#include <memory>

#include "pages.h"

namespace tenfold {

std::unique_ptr<PageReader> make_uring_reader(int descriptor, size_t depth);  // throws std::system_error

}  // namespace tenfold
