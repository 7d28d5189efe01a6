#include "machine.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace tenfold {
namespace {

// The CPU quota of the process's cgroup in cores, or 0 where there is none.
double cgroup_quota() {
    std::ifstream unified("/sys/fs/cgroup/cpu.max");
    std::string quota;
    double period = 0;
    if (unified >> quota >> period) return quota == "max" || period <= 0 ? 0 : std::atof(quota.c_str()) / period;
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
    std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    double allowed = 0;
    if (quota_file >> allowed && period_file >> period && allowed > 0 && period > 0) return allowed / period;
    return 0;
}

}  // namespace

size_t usable_cores() {
    size_t cores = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cores = size_t(std::max(1, CPU_COUNT(&set)));
#endif
    const double quota = cgroup_quota();
    return quota > 0 ? std::clamp<size_t>(size_t(std::ceil(quota)), 1, cores) : cores;
}

void release_memory() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

}  // namespace tenfold
