// Reading pages of the vector file: three back ends behind one interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tenfold {

constexpr size_t kAlignment = 4096;

struct ReadRequest {
    uint32_t tag;
    uint64_t offset;    // multiple of kAlignment
    uint32_t size;      // multiple of kAlignment
    std::byte* buffer;  // aligned to kAlignment
};

struct Completion {
    uint32_t tag;
    int64_t result;  // bytes read, or -errno
};

// Reads on from `done` bytes, in as many calls as it takes: how many are there then, or -errno.
int64_t read_fully(int descriptor, const ReadRequest&, size_t done = 0);

class PageReader {
  public:
    virtual ~PageReader() = default;
    virtual void queue(const ReadRequest&) = 0;
    virtual void submit() = 0;  // starts everything queued
    // Collects what has finished; waits for at least one if `wait` and something is under way.
    virtual void reap(std::vector<Completion>&, bool wait) = 0;
    // Waits for all that is under way, of which only the reader itself knows after an error. False where even that
    // fails: then nobody may free the buffers, since they may still be written to.
    bool settle() noexcept;
};

// An open vector file and the back end that this machine and file system allow.
class PageFile {
  public:
    // io: "auto", "uring", "direct" or "buffered". "auto" falls back in that order; a forced one that is refused
    // throws InputError with the reason.
    PageFile(const std::string& path, const std::string& io);
    ~PageFile();
    PageFile(const PageFile&) = delete;
    PageFile& operator=(const PageFile&) = delete;

    const std::string& backend() const { return backend_; }
    const std::string& path() const { return path_; }
    std::unique_ptr<PageReader> reader(size_t depth) const;

  private:
    std::string path_, backend_;
    int descriptor_ = -1;
};

}  // namespace tenfold
