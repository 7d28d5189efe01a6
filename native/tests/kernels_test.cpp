// Every instruction set this machine offers against the scalar path, and the floats of that against plain sums:
// bit for bit, on random and on extreme values; and the checksum against its definition. `make test-native` and, for
// NEON elsewhere, `make test-neon` run it.
#include "../kernels.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>

#include "../checksum.h"

namespace {

using tenfold::Hit;
using tenfold::Kernels;
using tenfold::Route;
using tenfold::ScanTable;

constexpr size_t kMaxDim = 300;
constexpr size_t kLongDims[] = {1024, 4097};
constexpr size_t kLongestDim = 270001;  // above kSafeValues of every path, where 32-bit sums of bytes go to 64 bits
constexpr size_t kMaxRows = 9;          // of l2_many: whole groups and what is left over
constexpr size_t kMaxTurned = 70;       // dimensions of turn: two whole groups of columns and what is left over
constexpr size_t kMaxPairs = 128;       // the most whose table sums fit into 16 bits
constexpr size_t kMaxCount = 100;
constexpr size_t kMaxMessages = 20;

enum class Kind { kModerate, kWide, kTiny, kExtreme, kLowest, kHighest };
constexpr Kind kKinds[] = {Kind::kModerate, Kind::kWide, Kind::kTiny, Kind::kExtreme, Kind::kLowest, Kind::kHighest};
constexpr Kind kByteKinds[] = {Kind::kModerate, Kind::kExtreme, Kind::kLowest, Kind::kHighest};

std::mt19937_64 generator(1);
size_t passed = 0, failed = 0;

uint32_t random_below(size_t limit) { return uint32_t((generator() >> 32) % limit); }

template <typename T, size_t n>
T pick(const T (&choices)[n]) {
    return choices[random_below(n)];
}

float random_float(uint32_t low_bits, uint32_t high_bits) {
    const uint32_t bits = random_below(2) << 31 | (low_bits + random_below(high_bits - low_bits));
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t random_half(uint16_t low_bits, uint16_t high_bits) {
    return uint16_t(random_below(2) << 15 | (low_bits + random_below(high_bits - low_bits)));
}

float draw(Kind kind, float) {
    static const float extremes[] = {0,     -0.0f,  FLT_TRUE_MIN, -FLT_TRUE_MIN, FLT_MIN,  1,
                                     -1e3f, -1e19f, 1e19f,        FLT_MAX,       -FLT_MAX, INFINITY};
    switch (kind) {
        case Kind::kModerate:
            return float(int32_t(generator() >> 32)) * 0x1p-31f;
        case Kind::kWide:
            return random_float(0x21800000, 0x5D800000);  // 2^-60 to 2^60: their squares do not overflow
        case Kind::kTiny:
            return random_float(0, 0x00800000);  // denormals
        case Kind::kExtreme:
            return pick(extremes);
        default:
            return kind == Kind::kLowest ? -FLT_MAX : FLT_MAX;
    }
}

// A half-precision number.
uint16_t draw(Kind kind, uint16_t) {
    static const uint16_t extremes[] = {0, 0x8000, 1, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00};
    switch (kind) {
        case Kind::kModerate:
            return random_half(0x2C00, 0x4000);  // 1/16 to 2
        case Kind::kWide:
            return random_half(0, 0x7C00);  // all finite ones
        case Kind::kTiny:
            return random_half(0, 0x0400);
        case Kind::kExtreme:
            return pick(extremes);
        default:
            return kind == Kind::kLowest ? 0xFBFF : 0x7BFF;
    }
}

// A byte, of either sign: any one, one of the two ends of the range, or always the same end.
template <typename T>
T draw(Kind kind, T) {
    static const T ends[] = {std::numeric_limits<T>::min(), std::numeric_limits<T>::max()};
    switch (kind) {
        case Kind::kExtreme:
            return pick(ends);
        case Kind::kLowest:
        case Kind::kHighest:
            return ends[kind == Kind::kHighest];
        default:
            return T(generator() >> 56);
    }
}

// `count` values at an address that fits no register's alignment, up to the very end of their allocation.
template <typename T>
class Row {
  public:
    Row(size_t count, Kind kind) : values_(count + 1) {
        for (T& value : values_) value = draw(kind, T());
    }
    const T* data() const { return values_.data() + 1; }

  private:
    std::vector<T> values_;
};

float value_of(float value) { return value; }

float value_of(uint16_t half) {
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float magnitude = exponent == 31  ? INFINITY
                            : exponent == 0 ? std::ldexp(float(mantissa), -24)
                                            : std::ldexp(float(1024 + mantissa), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

float square(float a, float b) { return (a - b) * (a - b); }
float product(float a, float b) { return a * b; }

// What float_kernels.h promises: value i is added to sum i mod 32, then the upper half of the sums to the lower.
template <typename T, float (*term)(float, float)>
float plain_sum(const float* a, const T* b, size_t d) {
    float sums[32] = {};
    for (size_t i = 0; i < d; ++i) sums[i % 32] += term(a[i], value_of(b[i]));
    for (size_t half = 16; half > 0; half /= 2)
        for (size_t i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
}

void plain_l2_many(const float* a, const float* base, const uint32_t* ids, size_t count, size_t d, float* out) {
    for (size_t i = 0; i < count; ++i) out[i] = plain_sum<float, square>(a, base + (ids ? ids[i] : i) * d, d);
}

void plain_turn(const float* rows, size_t count, const float* axes, size_t d, float* out) {
    for (size_t i = 0; i < count; ++i) {
        for (size_t j = 0; j < d; ++j) {
            volatile float sum = 0;  // so that each step is rounded
            for (size_t k = 0; k < d; ++k) {
                volatile float product = axes[k * d + j] * rows[i * d + k];
                sum = sum + product;
            }
            out[i * d + j] = sum;
        }
    }
}

Kernels plain_kernels() {
    Kernels plain = tenfold::scalar_kernels();
    plain.name = "plain sums";
    plain.l2_many = plain_l2_many;
    plain.turn = plain_turn;
    plain.l2_f32 = plain_sum<float, square>;
    plain.dot_f32 = plain_sum<float, product>;
    plain.l2_f16 = plain_sum<uint16_t, square>;
    plain.dot_f16 = plain_sum<uint16_t, product>;
    return plain;
}

// One level and the one whose bits it must give.
struct Comparison {
    const Kernels& level;
    const Kernels& expected;

    void count(bool is_same, const char* kernel, const char* size_name, size_t size) const {
        ++(is_same ? passed : failed);
        if (!is_same && failed <= kMaxMessages)
            std::printf("FAILED: %s, level %s, %s %zu: not the bits of %s\n", kernel, level.name, size_name, size,
                        expected.name);
    }
};

template <typename A, typename B>
using PairKernel = float (*Kernels::*)(const A*, const B*, size_t);

template <typename A, typename B>
void check_pair(const Comparison& both, const char* name, PairKernel<A, B> kernel, size_t d) {
    for (Kind kind_a : kKinds) {
        for (Kind kind_b : kKinds) {
            const Row<A> a(d, kind_a);
            const Row<B> b(d, kind_b);
            const float got = (both.level.*kernel)(a.data(), b.data(), d);
            const float expected = (both.expected.*kernel)(a.data(), b.data(), d);
            both.count(std::memcmp(&got, &expected, sizeof got) == 0, name, "dim", d);
        }
    }
}

std::vector<float> distances(const Kernels& level, const Row<float>& a, const Row<float>& base, const uint32_t* ids,
                             size_t count, size_t d) {
    std::vector<float> out(kMaxRows, -1);
    level.l2_many(a.data(), base.data(), ids, count, d, out.data());
    return out;
}

void check_l2_many(const Comparison& both, size_t d) {
    for (Kind kind : kKinds) {
        const Row<float> a(d, Kind::kModerate), base(kMaxRows * d, kind);
        uint32_t ids[kMaxRows];
        for (uint32_t& id : ids) id = random_below(kMaxRows);
        for (size_t count = 0; count <= kMaxRows; ++count) {
            for (const uint32_t* chosen : {static_cast<const uint32_t*>(nullptr), static_cast<const uint32_t*>(ids)}) {
                const std::vector<float> got = distances(both.level, a, base, chosen, count, d);
                const std::vector<float> expected = distances(both.expected, a, base, chosen, count, d);
                const bool is_same = std::memcmp(got.data(), expected.data(), kMaxRows * sizeof(float)) == 0;
                both.count(is_same, chosen ? "l2_many with ids" : "l2_many", "dim", d);
            }
        }
    }
}

void check_turn(const Comparison& both, size_t d) {
    for (Kind kind : {Kind::kModerate, Kind::kTiny}) {
        const Row<float> rows(kMaxRows * d, kind), axes(d * d, Kind::kModerate);
        for (size_t count = 0; count <= kMaxRows; ++count) {
            std::vector<float> got(kMaxRows * d, -1), expected(kMaxRows * d, -1);
            both.level.turn(rows.data(), count, axes.data(), d, got.data());
            both.expected.turn(rows.data(), count, axes.data(), d, expected.data());
            both.count(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0, "turn", "dim", d);
        }
    }
}

// How many rows the blocks of `count` rows hold.
size_t whole_blocks(size_t count) {
    return (count + tenfold::kBlockRows - 1) / tenfold::kBlockRows * tenfold::kBlockRows;
}

// Blocks of codes and one query's table.
class ScanInput {
  public:
    ScanInput(size_t pairs, Kind kind)
        : blocks_(whole_blocks(kMaxCount) / tenfold::kBlockRows * tenfold::block_bytes(pairs), kind),
          even_(doubled(pairs, kind)),
          odd_(doubled(pairs, kind)) {
        const Kind numbers = kind == Kind::kExtreme ? kind : Kind::kModerate;
        for (float& value : numbers_) value = draw(numbers, float());
        const auto& n = numbers_;
        table_ = {even_.data(), odd_.data(), pairs, n[0], n[1], n[2], n[3], n[4], n[5]};
    }

    std::vector<Hit> scan(const Kernels& level, size_t count, float threshold) const {
        std::vector<Hit> hits(whole_blocks(count));
        hits.resize(level.scan(blocks_.data(), count, table_, numbers_[6], threshold, hits.data()));
        return hits;
    }

  private:
    static std::vector<uint8_t> doubled(size_t pairs, Kind kind) {
        std::vector<uint8_t> table(32 * pairs);
        for (size_t i = 0; i < table.size(); ++i) table[i] = i % 32 < 16 ? draw(kind, uint8_t()) : table[i - 16];
        return table;
    }

    Row<uint8_t> blocks_;
    std::vector<uint8_t> even_, odd_;
    float numbers_[7];
    ScanTable table_;
};

bool is_same_hit(const Hit& a, const Hit& b) {
    return std::memcmp(&a.estimate, &b.estimate, sizeof a.estimate) == 0 && a.slot == b.slot && a.error == b.error;
}

void check_scan(const Comparison& both, size_t pairs) {
    for (Kind kind : kByteKinds) {
        const ScanInput input(pairs, kind);
        const std::vector<Hit> all = input.scan(both.expected, kMaxCount, INFINITY);
        for (size_t count = 1; count <= kMaxCount; ++count) {
            const float some = all.empty() ? 0 : all[random_below(all.size())].estimate;  // itself not below it
            for (float threshold : {INFINITY, some}) {
                const std::vector<Hit> got = input.scan(both.level, count, threshold);
                const std::vector<Hit> expected = input.scan(both.expected, count, threshold);
                const bool is_same = std::equal(got.begin(), got.end(), expected.begin(), expected.end(), is_same_hit);
                both.count(is_same, "scan", "pairs", pairs);
            }
        }
    }
}

bool is_same_route(const Route& a, const Route& b) {
    return std::memcmp(&a.distance, &b.distance, sizeof a.distance) == 0 && a.list == b.list;
}

// The largest bytes there may be, or random ones, in every place.
void check_bytes_compared(const Comparison& both, size_t quads) {
    constexpr size_t kMostBlocks = 9;
    constexpr size_t kRows = tenfold::kRoutedRows * kMostBlocks;
    for (bool is_extreme : {true, false}) {
        std::vector<uint8_t> values(4 * quads);
        std::vector<int8_t> blocks(4 * quads * kRows);
        std::vector<float> norms(kRows);
        std::vector<int32_t> sums(kRows);
        for (uint8_t& value : values) value = uint8_t(is_extreme ? 127 * random_below(2) : 1 + random_below(127));
        for (int8_t& value : blocks)
            value = int8_t(is_extreme ? 254 * int(random_below(2)) - 127 : int(random_below(255)) - 127);
        for (float& value : norms) value = float(random_below(1u << 20));
        for (int32_t& value : sums) value = int32_t(random_below(1u << 20));
        const tenfold::ByteQuery query{values.data(), quads, 0.37f};
        const tenfold::ByteRows rows{blocks.data(), norms.data(), sums.data()};
        const auto compare = [&](const Kernels& level, size_t count, float limit) {
            std::vector<Route> routes(tenfold::kRoutedRows * count);
            routes.resize(level.compare_bytes(query, rows, count, limit, routes.data()));
            return routes;
        };
        const float some = compare(both.expected, kMostBlocks, INFINITY)[random_below(kRows)].distance;
        for (size_t count = 1; count <= kMostBlocks; ++count)
            for (float limit : {INFINITY, some}) {
                const std::vector<Route> got = compare(both.level, count, limit);
                const std::vector<Route> expected = compare(both.expected, count, limit);
                const bool is_same =
                    std::equal(got.begin(), got.end(), expected.begin(), expected.end(), is_same_route);
                both.count(is_same, "compare_bytes", "quads", quads);
            }
    }
}

void check_floats(const Comparison& both, size_t d) {
    check_pair(both, "l2_f32", &Kernels::l2_f32, d);
    check_pair(both, "dot_f32", &Kernels::dot_f32, d);
    check_pair(both, "l2_f16", &Kernels::l2_f16, d);
    check_pair(both, "dot_f16", &Kernels::dot_f16, d);
    check_l2_many(both, d);
}

void check_bytes(const Comparison& both, size_t d) {
    check_pair(both, "l2_u8", &Kernels::l2_u8, d);
    check_pair(both, "dot_u8", &Kernels::dot_u8, d);
    check_pair(both, "l2_i8", &Kernels::l2_i8, d);
    check_pair(both, "dot_i8", &Kernels::dot_i8, d);
}

void check_all_dims(const Comparison& both, void (*check)(const Comparison&, size_t)) {
    for (size_t d = 1; d <= kMaxDim; ++d) check(both, d);
    for (size_t d : kLongDims) check(both, d);
}

void check_level(const Comparison& both) {
    check_all_dims(both, check_floats);
    check_all_dims(both, check_bytes);
    check_bytes(both, kLongestDim);
    for (size_t quads : {1, 2, 3, 7, 32, 33, 16384}) check_bytes_compared(both, quads);
    for (size_t pairs = 1; pairs <= kMaxPairs; ++pairs) check_scan(both, pairs);
}

uint32_t plain_crc32c(const unsigned char* bytes, size_t size, uint32_t crc) {
    crc = ~crc;
    for (size_t i = 0; i < 8 * size; ++i) {
        const uint32_t bit = (crc ^ bytes[i / 8] >> i % 8) & 1;
        crc = crc >> 1 ^ (bit ? 0x82F63B78 : 0);
    }
    return ~crc;
}

// Of every length and alignment, started and gone on with.
void check_checksum() {
    unsigned char bytes[kMaxCount + 8];
    for (unsigned char& byte : bytes) byte = (unsigned char)random_below(256);
    bool is_same = tenfold::crc32c("123456789", 9) == 0xE3069283;
    for (size_t size = 0; size <= kMaxCount; ++size)
        for (size_t start = 0; start < 8; ++start)
            for (uint32_t crc : {uint32_t(0), plain_crc32c(bytes, size, 0)})
                is_same &= tenfold::crc32c(bytes + start, size, crc) == plain_crc32c(bytes + start, size, crc);
    ++(is_same ? passed : failed);
    if (!is_same) std::printf("FAILED: crc32c\n");
}

}  // namespace

int main() {
    check_checksum();
    const Kernels& scalar = tenfold::scalar_kernels();
    const Kernels plain = plain_kernels();
    for (const std::string& name : tenfold::supported_levels()) {
        tenfold::use_level(name);
        std::printf("level %s\n", tenfold::kernels().name);
        for (size_t d = 1; d <= kMaxTurned; ++d) check_turn({tenfold::kernels(), plain}, d);
        if (name == scalar.name)  // its byte and scan kernels are plain loops themselves
            check_all_dims({tenfold::kernels(), plain}, check_floats);
        else
            check_level({tenfold::kernels(), scalar});
    }
    std::printf("%zu passed, %zu failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
