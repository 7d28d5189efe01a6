#include "uring.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "machine.h"

#if defined(__linux__) && __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace tenfold {
namespace {

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

// A mapping that unmaps itself.
class Mapping {
  public:
    Mapping(int descriptor, size_t size, uint64_t offset) : size_(size) {
        memory_ = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, off_t(offset));
        if (memory_ == MAP_FAILED) fail("io_uring mmap");
    }
    ~Mapping() { munmap(memory_, size_); }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    template <typename T>
    T* at(uint32_t offset) const {
        return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + offset);
    }

  private:
    void* memory_;
    size_t size_;
};

class Descriptor {
  public:
    explicit Descriptor(int number) : number_(number) {
        if (number < 0) fail("io_uring_setup");
    }
    ~Descriptor() { close(number_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number() const { return number_; }

  private:
    int number_;
};

class UringReader final : public PageReader {
  public:
    UringReader(int descriptor, size_t depth)
        : file_(descriptor),
          ring_(int(syscall(__NR_io_uring_setup, unsigned(depth), &parameters_))),
          submissions_(ring_.number(), parameters_.sq_off.array + parameters_.sq_entries * sizeof(uint32_t),
                       IORING_OFF_SQ_RING),
          completions_(ring_.number(), parameters_.cq_off.cqes + parameters_.cq_entries * sizeof(io_uring_cqe),
                       IORING_OFF_CQ_RING),
          entries_(ring_.number(), parameters_.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES) {}

    void queue(const ReadRequest& request) override {
        if (queued_ == parameters_.sq_entries) submit();
        const uint32_t number = keep(request);
        const uint32_t tail = *submissions_.at<uint32_t>(parameters_.sq_off.tail);
        const uint32_t slot = tail & *submissions_.at<uint32_t>(parameters_.sq_off.ring_mask);
        io_uring_sqe& entry = entries_.at<io_uring_sqe>(0)[slot];
        std::memset(&entry, 0, sizeof entry);
        entry.opcode = IORING_OP_READ;
        entry.fd = file_;
        entry.off = request.offset;
        entry.addr = reinterpret_cast<uint64_t>(request.buffer);
        entry.len = request.size;
        entry.user_data = number;
        submissions_.at<uint32_t>(parameters_.sq_off.array)[slot] = slot;
        __atomic_store_n(submissions_.at<uint32_t>(parameters_.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
        ++queued_;
    }

    void submit() override {
        while (queued_ > 0) {
            const size_t taken = enter(queued_, 0);
            queued_ -= taken;
            under_way_ += taken;
        }
    }

    void reap(std::vector<Completion>& done, bool wait) override {
        if (under_way_ == 0) return;
        if (collect(done) || !wait) return;
        while (!collect(done)) enter(0, 1);
    }

  private:
    // Until it is done; its number.
    uint32_t keep(const ReadRequest& request) {
        if (free_.empty()) {
            requests_.emplace_back();
            free_.reserve(requests_.size());  // so that giving numbers back needs no memory
            free_.push_back(uint32_t(requests_.size() - 1));
        }
        const uint32_t number = free_.back();
        free_.pop_back();
        requests_[number] = request;
        return number;
    }

    // A read may come back short, or not at all, through no fault of the file's: the rest is read here.
    int64_t finish(const ReadRequest& request, int32_t result) const {
        if (result == int64_t(request.size)) return result;
        if (result < 0 && result != -EINTR && result != -EAGAIN) return result;
        return read_fully(file_, request, size_t(std::max(0, result)) / kAlignment * kAlignment);
    }

    size_t enter(unsigned count, unsigned wait_for) {
        while (true) {
            const long taken = syscall(__NR_io_uring_enter, ring_.number(), count, wait_for,
                                       wait_for ? IORING_ENTER_GETEVENTS : 0, nullptr, 0);
            if (taken >= 0) return size_t(taken);
            if (errno != EINTR && errno != EAGAIN && errno != EBUSY) fail("io_uring_enter");
        }
    }

    bool collect(std::vector<Completion>& done) {
        uint32_t* head = completions_.at<uint32_t>(parameters_.cq_off.head);
        const uint32_t tail = __atomic_load_n(completions_.at<uint32_t>(parameters_.cq_off.tail), __ATOMIC_ACQUIRE);
        const uint32_t mask = *completions_.at<uint32_t>(parameters_.cq_off.ring_mask);
        uint32_t at = *head;
        const bool any = at != tail;
        done.reserve(done.size() + (tail - at));  // no memory is no reason to count some twice
        for (; at != tail; ++at, --under_way_) {
            const io_uring_cqe& entry = completions_.at<io_uring_cqe>(parameters_.cq_off.cqes)[at & mask];
            const auto number = uint32_t(entry.user_data);
            done.push_back({requests_[number].tag, finish(requests_[number], entry.res)});
            free_.push_back(number);
        }
        __atomic_store_n(head, at, __ATOMIC_RELEASE);
        return any;
    }

    int file_;
    io_uring_params parameters_{};
    Descriptor ring_;
    Mapping submissions_, completions_, entries_;
    std::vector<ReadRequest> requests_;  // queued and under way, by number
    std::vector<uint32_t> free_;         // numbers
    unsigned queued_ = 0;
    size_t under_way_ = 0;
};

}  // namespace

std::unique_ptr<PageReader> make_uring_reader(int descriptor, size_t depth) {
    return std::make_unique<UringReader>(descriptor, depth);
}

std::string probe_io_uring() {
    try {
        io_uring_params parameters{};
        const Descriptor ring(int(syscall(__NR_io_uring_setup, 4u, &parameters)));
        if (syscall(__NR_io_uring_enter, ring.number(), 0u, 0u, 0u, nullptr, 0) < 0) fail("io_uring_enter");
        // Came with the reads (IORING_OP_READ), in one release; of an older one every read would be refused.
        if (!(parameters.features & IORING_FEAT_RW_CUR_POS)) return "it needs Linux 5.6";
        return {};
    } catch (const std::system_error& error) {
        const int code = error.code().value();
        std::string reason = std::strerror(code);
        if (code == EPERM || code == ENOSYS) reason += " (a container's seccomp profile or sysctl refuses it)";
        return reason;
    }
}

}  // namespace tenfold

#else

namespace tenfold {

std::unique_ptr<PageReader> make_uring_reader(int, size_t) {
    throw std::system_error(ENOSYS, std::generic_category(), "io_uring");
}

std::string probe_io_uring() { return "built without it, on a system whose headers do not know it"; }

}  // namespace tenfold

#endif
