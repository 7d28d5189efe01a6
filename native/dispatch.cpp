// Chooses the instruction set once, from what the processor offers and TENFOLD_SIMD.
#include <atomic>
#include <cstdlib>

#include "errors.h"
#include "kernels.h"

namespace tenfold {
namespace {

std::vector<const Kernels*> supported() {
    std::vector<const Kernels*> levels{&scalar_kernels()};
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) levels.push_back(&avx2_kernels());
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq"))
        levels.push_back(&avx512_kernels());
#elif defined(__aarch64__)
    levels.push_back(&neon_kernels());
#endif
    return levels;
}

const Kernels* find(const std::string& name) {
    std::string known;
    for (const Kernels* level : supported()) {
        if (name == level->name) return level;
        known += (known.empty() ? "" : ", ") + std::string(level->name);
    }
    throw InputError("TENFOLD_SIMD: this machine does not offer '" + name + "'; choose one of " + known);
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
    const Kernels* level = chosen.load(std::memory_order_acquire);
    if (level == nullptr) {
        const char* wish = std::getenv("TENFOLD_SIMD");
        level = wish && *wish ? find(wish) : supported().back();
        chosen.store(level, std::memory_order_release);
    }
    return *level;
}

std::vector<std::string> supported_levels() {
    std::vector<std::string> names;
    for (const Kernels* level : supported()) names.emplace_back(level->name);
    return names;
}

void use_level(const std::string& name) { chosen.store(find(name), std::memory_order_release); }

}  // namespace tenfold
