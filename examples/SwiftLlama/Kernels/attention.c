#include "lanes.h"

// Keys are turned so that a lane is a token, values are used as they are, so that a lane is a dimension: in both, each
// number of a result is a plain sum from the first to the last.

enum { MOST_DIMENSIONS = 256 };

BODY const float *query_at(const float *queries, llama_queries shape, size_t row) {
    return queries + row / shape.group * shape.token_stride + row % shape.group * shape.dimension;
}

BODY size_t position_of(llama_queries shape, size_t row) { return shape.first_position + row / shape.group; }

BODY void score_rows(const float *queries, llama_queries shape, size_t row, size_t count, const float *turned,
                     float scale, float *scores, size_t score_stride) {
    lanes sums[4] = {};
    const float *from[4];
#pragma clang loop unroll(full)
    for (size_t r = 0; r < count; r++) from[r] = query_at(queries, shape, row + r);
    for (size_t d = 0; d < shape.dimension; d++) {
        lanes keys = load(turned + d * LLAMA_LANES);
#pragma clang loop unroll(full)
        for (size_t r = 0; r < count; r++) sums[r] = sums[r] + keys * from[r][d];
    }
#pragma clang loop unroll(full)
    for (size_t r = 0; r < count; r++) store(scores + (row + r) * score_stride, sums[r] * scale);
}

BODY void scores_of(const float *queries, llama_queries shape, llama_block keys, float scale, float *scores,
                    size_t score_stride) {
    float turned[MOST_DIMENSIONS * LLAMA_LANES];
    for (size_t first = 0; first < keys.tokens; first += LLAMA_LANES) {
        size_t count = least_of(keys.tokens - first, LLAMA_LANES);
        if (count < LLAMA_LANES) memset(turned, 0, 4 * shape.dimension * LLAMA_LANES);
        for (size_t token = 0; token < count; token++) {
            size_t at = (first + token) * keys.token_stride;
            for (size_t d = 0; d < shape.dimension; d++) {
                turned[d * LLAMA_LANES + token] = widen_one(load_half(keys.vectors, at + d));
            }
        }
        float *to = scores + keys.first_position + first;
        size_t row = 0;
        for (; row + 4 <= shape.rows; row += 4) score_rows(queries, shape, row, 4, turned, scale, to, score_stride);
        for (; row < shape.rows; row++) score_rows(queries, shape, row, 1, turned, scale, to, score_stride);
    }
}

BODY void exponentials(float *scores, llama_queries shape, size_t score_stride, float *sums) {
    for (size_t row = 0; row < shape.rows; row++, scores += score_stride) {
        size_t count = position_of(shape, row) + 1;
        size_t padded = (count + LLAMA_LANES - 1) / LLAMA_LANES * LLAMA_LANES;
        for (size_t i = count; i < padded; i++) scores[i] = -__builtin_inff();
        lanes most = load(scores);
        for (size_t i = LLAMA_LANES; i < padded; i += LLAMA_LANES) {
            lanes here = load(scores + i);
            most = choose(here > most, here, most);
        }
        float largest = most[0];
        for (int i = 1; i < LLAMA_LANES; i++) largest = most[i] > largest ? most[i] : largest;
        lanes total = {};
        for (size_t i = 0; i < padded; i += LLAMA_LANES) {
            lanes value = exponential(load(scores + i) - largest);
            if (i + LLAMA_LANES > count) {
                for (size_t lane = count - i; lane < LLAMA_LANES; lane++) value[lane] = 0;
            }
            store(scores + i, value);
            total = total + value;
        }
        sums[row] = sum_of(total);
    }
}

// `count` times 16 dimensions of one row.
BODY void mix_row(const float *scores, size_t tokens, const float *values, size_t dimension, size_t count, float *out) {
    lanes sums[4];
#pragma clang loop unroll(full)
    for (size_t i = 0; i < count; i++) sums[i] = load(out + i * LLAMA_LANES);
    for (size_t token = 0; token < tokens; token++) {
        lanes weight = splat(scores[token]);
#pragma clang loop unroll(full)
        for (size_t i = 0; i < count; i++) {
            sums[i] = sums[i] + weight * load(values + token * dimension + i * LLAMA_LANES);
        }
    }
#pragma clang loop unroll(full)
    for (size_t i = 0; i < count; i++) store(out + i * LLAMA_LANES, sums[i]);
}

BODY void mix(const float *scores, llama_queries shape, size_t score_stride, llama_block block, float *out) {
    float values[MOST_DIMENSIONS * LLAMA_LANES];
    size_t dimension = shape.dimension;
    for (size_t first = 0; first < block.tokens; first += LLAMA_LANES) {
        size_t count = least_of(block.tokens - first, LLAMA_LANES);
        size_t start = block.first_position + first;
        for (size_t token = 0; token < count; token++) {
            size_t at = (first + token) * block.token_stride;
            for (size_t d = 0; d < dimension; d++) {
                values[token * dimension + d] = widen_one(load_half(block.vectors, at + d));
            }
        }
        for (size_t row = 0; row < shape.rows; row++) {
            // Tokens after the row's own are not even multiplied by zero: memory not yet written may hold a NaN.
            size_t end = position_of(shape, row) + 1;
            if (end <= start) continue;
            size_t visible = least_of(end - start, count);
            const float *weights = scores + row * score_stride + start;
            float *to = out + row * dimension;
            size_t d = 0;
            for (; d + 4 * LLAMA_LANES <= dimension; d += 4 * LLAMA_LANES) {
                mix_row(weights, visible, values + d, dimension, 4, to + d);
            }
            for (; d < dimension; d += LLAMA_LANES) mix_row(weights, visible, values + d, dimension, 1, to + d);
        }
    }
}

#define DEFINE_ATTENTION(suffix, target)                                                                              \
    target static void scores_of##suffix(const float *queries, llama_queries shape, llama_block keys, float scale,    \
                                         float *scores, size_t score_stride) {                                        \
        scores_of(queries, shape, keys, scale, scores, score_stride);                                                 \
    }                                                                                                                 \
    target static void exponentials##suffix(float *scores, llama_queries shape, size_t score_stride, float *sums) {   \
        exponentials(scores, shape, score_stride, sums);                                                              \
    }                                                                                                                 \
    target static void mix##suffix(const float *scores, llama_queries shape, size_t score_stride, llama_block values, \
                                   float *out) {                                                                      \
        mix(scores, shape, score_stride, values, out);                                                                \
    }

DEFINE_ATTENTION(_portable, )
#if defined(__x86_64__)
DEFINE_ATTENTION(_avx2, TARGET_AVX2)
DEFINE_ATTENTION(_avx512, TARGET_AVX512)
#endif

void llama_scores(const float *queries, llama_queries shape, llama_block keys, float scale, float *scores,
                  size_t score_stride) {
    DISPATCH(scores_of, queries, shape, keys, scale, scores, score_stride)
}

void llama_exponentials(float *scores, llama_queries shape, size_t score_stride, float *sums) {
    DISPATCH(exponentials, scores, shape, score_stride, sums)
}

void llama_mix(const float *scores, llama_queries shape, size_t score_stride, llama_block values, float *out) {
    DISPATCH(mix, scores, shape, score_stride, values, out)
}
