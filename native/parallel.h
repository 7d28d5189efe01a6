// A parallel for over blocks of work; the first exception wins and is thrown to the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace tenfold {

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
        for (size_t thread = 1; thread < threads; ++thread) crew.emplace_back(work, thread);
    } catch (const std::system_error&) {
        // The system gives no more threads: those there are do the work.
    }
    work(0);
    for (std::thread& worker : crew) worker.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace tenfold
