// What this machine grants the process.
#pragma once

#include <cstddef>
#include <string>

namespace tenfold {

size_t usable_cores();         // affinity mask and cgroup quota, at least 1
void release_memory();         // gives freed memory back to the system where the allocator keeps it
std::string probe_io_uring();  // empty where io_uring works, else why not

}  // namespace tenfold
