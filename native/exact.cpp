#include "exact.h"

#include <algorithm>

#include "errors.h"
#include "parallel.h"

namespace tenfold {

void Best::add(Result result) {
    if (!full()) {
        heap_.push_back(result);
        std::push_heap(heap_.begin(), heap_.end());
    } else if (k_ > 0 && result < heap_.front()) {
        std::pop_heap(heap_.begin(), heap_.end());
        heap_.back() = result;
        std::push_heap(heap_.begin(), heap_.end());
    }
}

void Best::write(float* distances, int64_t* ids) {
    std::sort_heap(heap_.begin(), heap_.end());
    for (size_t i = 0; i < k_; ++i) {
        distances[i] = i < heap_.size() ? heap_[i].distance : std::numeric_limits<float>::infinity();
        ids[i] = i < heap_.size() ? heap_[i].id : -1;
    }
}

void search_exact(const Scorer& scorer, const ExactRows& rows, const void* queries, size_t query_count, size_t k,
                  size_t threads, float* distances, int64_t* ids) {
    const size_t row_bytes = scorer.dim * type_size(scorer.type);
    const size_t query_bytes = scorer.dim * query_type_size(scorer.type);
    const auto* row_data = static_cast<const std::byte*>(rows.data);
    const auto* query_data = static_cast<const std::byte*>(queries);
    const size_t tile = std::max<size_t>(1, 131072 / row_bytes);  // rows that stay in the second-level cache
    const bool cosine = scorer.metric == Metric::cosine;
    parallel_for(query_count, 8, threads, [&](size_t first, size_t last, size_t) {
        std::vector<Best> best(last - first);
        std::vector<float> norms(last - first), row_norms(cosine ? std::min(tile, rows.count) : 0);
        for (size_t q = first; q < last; ++q) {
            best[q - first].start(k);
            norms[q - first] = scorer.query_norm(query_data + q * query_bytes);
            for (size_t i = 0; i < k && ids[q * k + i] >= 0; ++i)
                best[q - first].add({distances[q * k + i], ids[q * k + i]});
        }
        for (size_t start = 0; start < rows.count; start += tile) {
            const size_t stop = std::min(rows.count, start + tile);
            for (size_t i = start; cosine && i < stop; ++i)
                if (rows.allows(i)) row_norms[i - start] = scorer.norm(row_data + i * row_bytes);
            for (size_t q = first; q < last; ++q)
                for (size_t i = start; i < stop; ++i) {
                    if (!rows.allows(i)) continue;
                    const std::byte *query = query_data + q * query_bytes, *row = row_data + i * row_bytes;
                    const float distance = cosine ? scorer.cosine(query, norms[q - first], row, row_norms[i - start])
                                                  : scorer.distance(query, norms[q - first], row);
                    if (distance <= best[q - first].worst()) best[q - first].add({distance, rows.id(i)});
                }
        }
        for (size_t q = first; q < last; ++q) best[q - first].write(distances + q * k, ids + q * k);
    });
}

void merge_found(const Found& found, size_t query_count, size_t k, size_t threads, float* distances, int64_t* ids) {
    parallel_for(query_count, 256, threads, [&](size_t first, size_t last, size_t) {
        Best best;
        for (size_t q = first; q < last; ++q) {
            best.start(k);
            for (size_t i = q * k; i < (q + 1) * k && ids[i] >= 0; ++i) best.add({distances[i], ids[i]});
            for (size_t i = q * found.width; i < (q + 1) * found.width && found.labels[i] >= 0; ++i) {
                if (size_t(found.labels[i]) >= found.count)
                    throw InputError("a search found row " + std::to_string(found.labels[i]) + " of " +
                                     std::to_string(found.count) +
                                     "; the index is damaged, run `tenfold search verify`");
                best.add({found.distances[i], found.ids[found.labels[i]]});
            }
            best.write(distances + q * k, ids + q * k);
        }
    });
}

}  // namespace tenfold
