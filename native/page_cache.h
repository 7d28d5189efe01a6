// One worker's page buffers: what is being read, who waits for it, and what was read lately (CLOCK).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "buffer.h"
#include "pages.h"

namespace tenfold {

class PageCache {
  public:
    enum class State : uint8_t { empty, loading, ready };
    struct Slot {
        uint64_t page = 0;
        State state = State::empty;
        bool recent = false;
        std::vector<uint32_t> waiting;  // flights to tell
    };

    PageCache(size_t slots, size_t buffer_bytes)
        : slots_(slots), buffer_bytes_(buffer_bytes), memory_(aligned_bytes(kAlignment, slots * buffer_bytes)) {
        index_.reserve(slots * 2);
    }

    Slot& slot(uint32_t number) { return slots_[number]; }
    std::byte* buffer(uint32_t number) { return memory_.get() + number * buffer_bytes_; }

    // The slot that holds or awaits the page, or kNoSlot.
    uint32_t find(uint64_t page) {
        const auto at = index_.find(page);
        if (at == index_.end()) return kNoSlot;
        slots_[at->second].recent = true;
        return at->second;
    }

    // A slot for a page about to be read, taken from the page used longest ago; kNoSlot while all are loading.
    uint32_t claim(uint64_t page) {
        for (size_t tries = 0; tries < 2 * slots_.size(); ++tries) {
            const auto number = uint32_t(hand_);
            hand_ = (hand_ + 1) % slots_.size();
            Slot& slot = slots_[number];
            if (slot.state == State::loading) continue;
            if (slot.recent) {
                slot.recent = false;
                continue;
            }
            release(number);
            slot.page = page;
            slot.state = State::loading;
            index_[page] = number;
            return number;
        }
        return kNoSlot;
    }

    void release(uint32_t number) {
        Slot& slot = slots_[number];
        if (slot.state != State::empty) index_.erase(slot.page);
        slot.state = State::empty;
        slot.recent = false;
        slot.waiting.clear();
    }

    void leak() { memory_.release(); }

    static constexpr uint32_t kNoSlot = 0xFFFFFFFF;

  private:
    std::vector<Slot> slots_;
    size_t buffer_bytes_;
    AlignedBytes memory_;
    std::unordered_map<uint64_t, uint32_t> index_;
    size_t hand_ = 0;
};

}  // namespace tenfold
