// A parallel for over blocks of work; the first exception wins and is thrown to the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace tenfold {

// Moves a new thread to the nth core after the caller's, and leaves it free to go elsewhere later. Linux may start it
// on the very core that the caller keeps busy and move it away only after tens of milliseconds.
inline void start_elsewhere([[maybe_unused]] std::thread& worker, [[maybe_unused]] size_t nth) {
#ifdef __linux__
    cpu_set_t usable;
    const int own = sched_getcpu();
    if (own < 0 || sched_getaffinity(0, sizeof usable, &usable) != 0 || CPU_COUNT(&usable) < 2) return;
    int core = own;
    for (size_t step = 0; step < nth; ++step) {
        do core = (core + 1) % CPU_SETSIZE;
        while (!CPU_ISSET(core, &usable));
    }
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(core, &only);
    pthread_setaffinity_np(worker.native_handle(), sizeof only, &only);
    pthread_setaffinity_np(worker.native_handle(), sizeof usable, &usable);
#endif
}

// Calls body(first, last, thread) for consecutive ranges of at most `grain` items.
template <typename Body>
void parallel_for(size_t count, size_t grain, size_t threads, Body body) {
    threads = std::max<size_t>(1, std::min(threads, (count + grain - 1) / grain));
    if (threads == 1) {
        for (size_t first = 0; first < count; first += grain) body(first, std::min(count, first + grain), size_t(0));
        return;
    }
    std::atomic<size_t> next{0};
    std::exception_ptr failure;
    std::mutex lock;
    auto work = [&](size_t thread) {
        try {
            for (size_t first; (first = next.fetch_add(grain)) < count;)
                body(first, std::min(count, first + grain), thread);
        } catch (...) {
            next.store(count);
            const std::lock_guard<std::mutex> guard(lock);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> crew;
    try {
        crew.reserve(threads - 1);
        for (size_t thread = 1; thread < threads; ++thread) {
            crew.emplace_back(work, thread);
            start_elsewhere(crew.back(), thread);
        }
    } catch (const std::exception&) {
        // The system gives no more threads, or no memory for one: those there are do the work.
    }
    work(0);
    for (std::thread& worker : crew) worker.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace tenfold
