#include "machine.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

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

// The lines of a small file, none where it cannot be read. Not by std::ifstream: with libstdc++ linked in statically,
// its number parsing crashes as soon as another module has brought the shared one.
std::vector<std::string> lines_of(const fs::path& path) {
    std::vector<std::string> lines;
    std::FILE* file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return lines;
    bool begun = false;
    for (int letter; (letter = std::fgetc(file)) != EOF;) {
        if (!begun) lines.emplace_back();
        begun = letter != '\n';
        if (begun) lines.back() += char(letter);
    }
    std::fclose(file);
    return lines;
}

// The quota of one control group, in cores.
double quota_of(const fs::path& group, bool unified) {
    std::string text;
    for (const char* name : {"cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"}) {
        if (unified != (name == std::string("cpu.max"))) continue;
        for (const std::string& line : lines_of(group / name)) text += line + " ";
    }
    char* end = nullptr;
    const double allowed = std::strtod(text.c_str(), &end);  // "max" and -1 are none
    const double period = std::strtod(end, nullptr);
    return allowed > 0 && period > 0 ? allowed / period : kNoQuota;
}

}  // namespace

double cpu_quota(const std::string& root) {
    double least = kNoQuota;
    for (const std::string& line : lines_of(fs::path(root) / "proc/self/cgroup")) {  // number:controllers:/path
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
