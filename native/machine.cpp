#include "machine.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace tenfold {
namespace {

namespace fs = std::filesystem;

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

// The quota of one control group, in cores.
double quota_of(const fs::path& group, bool unified) {
    std::string quota;
    double period = 0;
    if (unified) {
        std::ifstream(group / "cpu.max") >> quota >> period;
    } else {
        std::ifstream(group / "cpu.cfs_quota_us") >> quota;
        std::ifstream(group / "cpu.cfs_period_us") >> period;
    }
    const double allowed = std::atof(quota.c_str());  // "max" and -1 are none
    return allowed > 0 && period > 0 ? allowed / period : kNoQuota;
}

}  // namespace

double cpu_quota(const std::string& root) {
    double least = kNoQuota;
    std::ifstream groups(fs::path(root) / "proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {  // number:controllers:/path
        const size_t first = line.find(':');
        const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
        if (second == std::string::npos || second + 2 > line.size()) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool unified = controllers == ",,";
        if (!unified && controllers.find(",cpu,") == std::string::npos) continue;
        const fs::path mount = fs::path(root) / (unified ? "sys/fs/cgroup" : "sys/fs/cgroup/cpu");
        fs::path group = line.substr(second + 2);
        for (; !group.empty(); group = group.parent_path()) least = std::min(least, quota_of(mount / group, unified));
        least = std::min(least, quota_of(mount, unified));
    }
    return least;
}

size_t usable_cores() {
    size_t cores = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) cores = size_t(std::max(1, CPU_COUNT(&set)));
#endif
    static const double quota = std::ceil(cpu_quota("/"));  // read once: every search asks
    return quota < double(cores) ? size_t(quota) : cores;
}

void release_memory() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

}  // namespace tenfold
