// Arrays of Python as the native core takes and gives them.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "buffer.h"
#include "errors.h"
#include "metric.h"
#include "quantizer.h"

namespace tenfold {

namespace nb = nanobind;

template <typename T>
using In1 = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <typename T>
using In3 = nb::ndarray<const T, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A NumPy array of our own, filled by the caller.
template <typename T, size_t Dims>
struct Out {
    using Array = nb::ndarray<nb::numpy, T, nb::ndim<Dims>>;
    T* data;
    Array array;

    explicit Out(std::array<size_t, Dims> shape) {
        size_t size = 1;
        for (size_t extent : shape) size *= extent;
        auto buffer = std::make_unique<Buffer<T>>(size);
        data = buffer->data();
        nb::capsule owner(buffer.get(), [](void* memory) noexcept { delete static_cast<Buffer<T>*>(memory); });
        buffer.release();
        array = Array(data, Dims, shape.data(), owner);
    }
};

// One bit per row, the lowest first; none: all rows.
using Bits = std::optional<In1<uint64_t>>;

inline void require(bool condition, const char* what) {
    if (!condition) throw InputError(what);
}

inline const uint64_t* bits_of(const Bits& bits, size_t rows) {
    require(!bits || bits->shape(0) == (rows + 63) / 64, "there is not one bit per row");
    return bits ? bits->data() : nullptr;
}

inline Metric parse_metric(const std::string& name) {
    if (name == "l2") return Metric::l2;
    if (name == "ip") return Metric::ip;
    if (name == "cosine") return Metric::cosine;
    throw InputError("metric '" + name + "' is not known; choose l2, ip or cosine");
}

inline Type parse_type(const std::string& name) {
    if (name == "float32") return Type::f32;
    if (name == "float16") return Type::f16;
    if (name == "uint8") return Type::u8;
    if (name == "int8") return Type::i8;
    throw InputError("dtype '" + name + "' is not supported; choose float32, float16, uint8 or int8");
}

// Of stored rows; those of queries differ for float16.
inline nb::dlpack::dtype dtype_of(Type type) {
    if (type == Type::f32) return nb::dtype<float>();
    if (type == Type::f16) return {uint8_t(nb::dlpack::dtype_code::Float), 16, 1};
    return type == Type::u8 ? nb::dtype<uint8_t>() : nb::dtype<int8_t>();
}
inline nb::dlpack::dtype query_dtype_of(Type type) { return dtype_of(type == Type::f16 ? Type::f32 : type); }

inline Codec make_codec(size_t dim, size_t bits, const In3<float>& codebook) {
    const Codec codec{dim, bits ? (dim + 7) / 8 * 2 * bits : codebook.shape(0), bits, codebook.data()};
    require(codec.subs >= 2 && codec.subs % 2 == 0,
            "codebook.bin: a codec has an even number of sub-quantisers; the index is damaged");
    require(bits <= 4 && (bits > 0 || (codebook.shape(1) == 16 && codebook.shape(2) == codec.sub_dim())),
            "codebook.bin: its shape does not fit the dimension; the index is damaged");
    return codec;
}

}  // namespace tenfold
