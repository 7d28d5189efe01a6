// What this machine grants the process.
#pragma once

#include <cstddef>
#include <string>

namespace tenfold {

size_t usable_cores();         // affinity mask and cgroup quota, at least 1
std::string probe_io_uring();  // empty where io_uring works, else why not

}  // namespace tenfold
