#include "pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "errors.h"
#include "machine.h"
#include "uring.h"

namespace tenfold {
namespace {

// Through the page cache: the kernel is told of the whole round first, so that the disk sees it at once.
class BufferedReader final : public PageReader {
  public:
    explicit BufferedReader(int descriptor) : descriptor_(descriptor) {}

    void queue(const ReadRequest& request) override { queued_.push_back(request); }

    void submit() override {
#if defined(POSIX_FADV_WILLNEED)
        for (const ReadRequest& request : queued_)
            posix_fadvise(descriptor_, off_t(request.offset), off_t(request.size), POSIX_FADV_WILLNEED);
#endif
        started_.insert(started_.end(), queued_.begin(), queued_.end());
        queued_.clear();
    }

    void reap(std::vector<Completion>& done, bool) override {
        for (const ReadRequest& request : started_) done.push_back({request.tag, read_fully(descriptor_, request)});
        started_.clear();
    }

  private:
    int descriptor_;
    std::vector<ReadRequest> queued_, started_;
};

constexpr size_t kCrew = 16;
constexpr std::chrono::seconds kPatience(1);  // of threads with nothing to read

// Threads that pread, for O_DIRECT without io_uring. They come with the reads and go when there are none: each thread
// that searches has readers of its own, one for every index, most of them idle.
class ThreadedReader final : public PageReader {
  public:
    explicit ThreadedReader(int descriptor) : shared_(std::make_shared<Shared>(descriptor)) {}

    ~ThreadedReader() override {
        const std::lock_guard<std::mutex> guard(shared_->lock);
        shared_->stopping = true;
        shared_->wake.notify_all();
    }

    void queue(const ReadRequest& request) override { queued_.push_back(request); }

    void submit() override {
        if (queued_.empty()) return;
        size_t missing = 0;
        {
            const std::lock_guard<std::mutex> guard(shared_->lock);
            shared_->results.reserve(under_way_ + queued_.size());  // threads have nobody to tell that memory ended
            shared_->jobs.insert(shared_->jobs.end(), queued_.begin(), queued_.end());
            under_way_ += queued_.size();
            shared_->wake.notify_all();
            const size_t wanted = std::min(most_, under_way_);
            if (shared_->crew < wanted) missing = wanted - shared_->crew;
            shared_->crew += missing;
        }
        queued_.clear();
        hire(missing);
    }

    void reap(std::vector<Completion>& done, bool wait) override {
        std::unique_lock<std::mutex> guard(shared_->lock);
        std::vector<Completion>& results = shared_->results;
        if (wait && under_way_ > 0) shared_->finished.wait(guard, [&] { return !results.empty(); });
        done.insert(done.end(), results.begin(), results.end());  // may throw: then they are still under way
        under_way_ -= results.size();
        results.clear();
    }

  private:
    // What the threads need; the last of them or of the reader removes it.
    struct Shared {
        explicit Shared(int descriptor) : descriptor(descriptor) {}

        void work() {
            std::unique_lock<std::mutex> guard(lock);
            while (wake.wait_for(guard, kPatience, [this] { return stopping || !jobs.empty(); }) && !stopping) {
                const ReadRequest job = jobs.front();
                jobs.pop_front();
                guard.unlock();
                const Completion result{job.tag, read_fully(descriptor, job)};
                guard.lock();
                results.push_back(result);
                finished.notify_one();
            }
            --crew;
        }

        const int descriptor;
        std::mutex lock;
        std::condition_variable wake, finished;
        std::deque<ReadRequest> jobs;
        std::vector<Completion> results;
        size_t crew = 0;
        bool stopping = false;
    };

    // Starts threads that count among the crew already. Where the system gives no more, or no memory for one, fewer
    // must do, and none at all means that the caller reads.
    void hire(size_t missing) try {
        for (; missing > 0; --missing) std::thread([shared = shared_] { shared->work(); }).detach();
    } catch (const std::exception&) {
        const std::lock_guard<std::mutex> guard(shared_->lock);
        shared_->crew -= missing;
        most_ = std::max<size_t>(1, shared_->crew);  // to ask for the next time
        if (shared_->crew > 0) return;
        for (const ReadRequest& job : shared_->jobs)
            shared_->results.push_back({job.tag, read_fully(shared_->descriptor, job)});
        shared_->jobs.clear();
    }

    std::shared_ptr<Shared> shared_;
    std::vector<ReadRequest> queued_;
    size_t under_way_ = 0, most_ = kCrew;
};

// Opens past the page cache; -1 with errno where the system or file system refuses.
int open_direct(const std::string& path) {
#if defined(O_DIRECT)
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (descriptor < 0) return -1;
    // Some file systems accept the flag and refuse the read.
    alignas(kAlignment) static thread_local std::byte probe[kAlignment];
    if (pread(descriptor, probe, kAlignment, 0) < 0) {
        const int reason = errno;
        close(descriptor);
        errno = reason;
        return -1;
    }
    return descriptor;
#else
    errno = EINVAL;
    return -1;
#endif
}

}  // namespace

int64_t read_fully(int descriptor, const ReadRequest& request, size_t done) {
    while (done < request.size) {
        const ssize_t got = pread(descriptor, request.buffer + done, request.size - done, off_t(request.offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) break;
        done += size_t(got);
    }
    return int64_t(done);
}

bool PageReader::settle() noexcept try {
    std::vector<Completion> done;
    do {
        done.clear();
        reap(done, true);
    } while (!done.empty());
    return true;
} catch (...) {
    return false;
}

PageFile::PageFile(const std::string& path, const std::string& io) : path_(path) {
    const bool automatic = io == "auto";
    if (!automatic && io != "uring" && io != "direct" && io != "buffered")
        throw InputError("io='" + io + "' is not known; choose auto, uring, direct, buffered or memory");
    const std::string no_uring = automatic || io == "uring" ? probe_io_uring() : "";
    if (io == "uring" && !no_uring.empty())
        throw InputError("io='uring' is refused here: " + no_uring + "; use io='auto'");
    if (io != "buffered") {
        descriptor_ = open_direct(path);
        if (descriptor_ >= 0) {
            backend_ = io == "direct" || !no_uring.empty() ? "direct" : "uring";
            return;
        }
        if (!automatic)
            throw InputError(path + ": O_DIRECT is refused by this file system (" + std::strerror(errno) +
                             "); use io='auto' or io='buffered'");
    }
    descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor_ < 0) throw InputError(path + ": cannot be opened: " + std::strerror(errno));
    backend_ = "buffered";
#if defined(POSIX_FADV_RANDOM)
    posix_fadvise(descriptor_, 0, 0, POSIX_FADV_RANDOM);
#endif
}

PageFile::~PageFile() {
    if (descriptor_ >= 0) close(descriptor_);
}

std::unique_ptr<PageReader> PageFile::reader(size_t depth) const {
    if (backend_ == "uring") try {
            return make_uring_reader(descriptor_, depth);
        } catch (const std::system_error&) {
            // No more rings to be had (descriptors, locked memory): threads read the same file.
        }
    if (backend_ != "buffered") return std::make_unique<ThreadedReader>(descriptor_);
    return std::make_unique<BufferedReader>(descriptor_);
}

}  // namespace tenfold
