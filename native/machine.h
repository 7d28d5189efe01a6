// What this machine grants the process.
#pragma once

#include <cstddef>
#include <string>

namespace tenfold {

size_t usable_cores();  // affinity mask and cgroup quota, at least 1
// Cores that the control groups (version 1 or 2) of the process and their ancestors allow, the fewest of them;
// infinity where none sets a quota. `root` is where `proc` and `sys` are mounted.
double cpu_quota(const std::string& root);
void release_memory();         // gives freed memory back to the system where the allocator keeps it
std::string probe_io_uring();  // empty where io_uring works, else why not

}  // namespace tenfold
