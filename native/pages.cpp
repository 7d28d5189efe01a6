#include "pages.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
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

// A small crew of threads that pread, for O_DIRECT without io_uring.
class ThreadedReader final : public PageReader {
  public:
    ThreadedReader(int descriptor, size_t crew) : descriptor_(descriptor) {
        try {
            for (size_t i = 0; i < crew; ++i) crew_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // The system gives no more threads: with fewer it is slower, with none submit() reads itself.
        }
    }

    ~ThreadedReader() override {
        {
            const std::lock_guard<std::mutex> guard(lock_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (std::thread& worker : crew_) worker.join();
    }

    void queue(const ReadRequest& request) override { queued_.push_back(request); }

    void submit() override {
        if (queued_.empty()) return;
        {
            const std::lock_guard<std::mutex> guard(lock_);
            wake_.notify_all();  // first: should memory end, what was handed over is read all the same
            for (const ReadRequest& request : queued_) {
                if (crew_.empty())
                    results_.push_back({request.tag, read_fully(descriptor_, request)});
                else
                    jobs_.push_back(request);
                ++under_way_;
            }
        }
        queued_.clear();
    }

    void reap(std::vector<Completion>& done, bool wait) override {
        std::unique_lock<std::mutex> guard(lock_);
        if (wait && under_way_ > 0) finished_.wait(guard, [this] { return !results_.empty(); });
        under_way_ -= results_.size();
        done.insert(done.end(), results_.begin(), results_.end());
        results_.clear();
    }

  private:
    void work() {
        std::unique_lock<std::mutex> guard(lock_);
        while (true) {
            wake_.wait(guard, [this] { return stopping_ || !jobs_.empty(); });
            if (stopping_) return;
            const ReadRequest job = jobs_.front();
            jobs_.pop_front();
            guard.unlock();
            const Completion result{job.tag, read_fully(descriptor_, job)};
            guard.lock();
            results_.push_back(result);
            finished_.notify_one();
        }
    }

    int descriptor_;
    std::vector<std::thread> crew_;
    std::mutex lock_;
    std::condition_variable wake_, finished_;
    std::deque<ReadRequest> jobs_;
    std::vector<ReadRequest> queued_;
    std::vector<Completion> results_;
    size_t under_way_ = 0;
    bool stopping_ = false;
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
#elif defined(F_NOCACHE)
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) fcntl(descriptor, F_NOCACHE, 1);
    return descriptor;
#else
    errno = EINVAL;
    return -1;
#endif
}

constexpr size_t kCrew = 16;

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
    if (backend_ != "buffered") return std::make_unique<ThreadedReader>(descriptor_, kCrew);
    return std::make_unique<BufferedReader>(descriptor_);
}

}  // namespace tenfold
