#include "levels.h"

// Every step is one IEEE operation whose result does not depend on the instructions used: multiplications and additions
// must not be fused, and rounding is by adding a large number, which needs no instruction of its own.
#pragma STDC FP_CONTRACT OFF

// Bounds on the largest magnitude of a scale's words, as words. Above, 127 steps could round to infinity; below (bf16
// only, 2^-100), steps could be so small that their arithmetic depends on how the thread treats denormals.
enum { BF16_LIMIT = 0x7F00, FP16_LIMIT = 0x7BEF, BF16_LEAST = 27 << 7 };

BODY float as_float(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

BODY uint32_t as_bits(float number) {
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    return bits;
}

BODY float to_float(uint16_t word, bool is_fp16) {
    if (!is_fp16) return as_float((uint32_t)word << 16);
    uint32_t sign = (uint32_t)(word & 0x8000) << 16;
    uint32_t magnitude = word & 0x7FFF;
    uint32_t normal = (magnitude << 13) + 0x38000000;
    // 2^-14 with the same fraction, less 2^-14: what a number without a leading one is worth.
    float small = as_float((magnitude << 13) + 0x38800000) - as_float(0x38800000);
    return as_float((magnitude < 0x400 ? as_bits(small) : normal) | sign);
}

BODY uint16_t from_float(float number, bool is_fp16) {
    uint32_t bits = as_bits(number);
    if (!is_fp16) return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    uint32_t normal = (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13;
    // One half has 2^-24, the least fp16, as its last bit: adding it rounds.
    uint32_t small = as_bits(as_float(magnitude) + 0.5f) - 0x3F000000;
    uint32_t result = magnitude < 0x38800000 ? small : normal;
    return (uint16_t)((magnitude >= 0x477FF000 ? 0x7C00 : result) | sign);
}

BODY int8_t quantise(uint16_t word, float factor, bool is_fp16) {
    // Rounds to the nearest, ties to even, for anything below 2^22.
    uint32_t rounded = as_bits(to_float(word, is_fp16) * factor + 12582912.0f);
    return (int8_t)(rounded - 0x4B400000);
}

/// A scale of at least largest / 127, as bf16; false when it would be out of range.
BODY bool scale_for(uint16_t largest, bool is_fp16, uint16_t *scale) {
    if (largest >= (is_fp16 ? FP16_LIMIT : BF16_LIMIT)) return false;
    if (!is_fp16 && largest != 0 && largest < BF16_LEAST) return false;
    // Up, so that no number of the group needs more than 127 steps.
    *scale = (uint16_t)((as_bits(to_float(largest, is_fp16) / 127.0f) + 0xFFFF) >> 16);
    return true;
}

BODY float factor_for(uint16_t scale) { return scale == 0 ? 0.0f : 1.0f / as_float((uint32_t)scale << 16); }

BODY bool encode_keys(const uint8_t *restrict words, ckernels_int8_shape shape, bool is_fp16, uint8_t *restrict scales,
                      int8_t *restrict codes, float *restrict factors) {
    // Magnitudes of finite numbers are in the order of their words. The scales' own place holds the largest until then.
    memset(scales, 0, 2 * shape.channels);
    for (size_t row = 0; row < shape.rows; row++) {
        const uint8_t *from = words + 2 * shape.channels * row;
        for (size_t k = 0; k < shape.channels; k++) {
            uint16_t magnitude = load16(from + 2 * k) & 0x7FFF;
            uint16_t largest = load16(scales + 2 * k);
            store16(scales + 2 * k, magnitude > largest ? magnitude : largest);
        }
    }
    for (size_t k = 0; k < shape.channels; k++) {
        uint16_t scale;
        if (!scale_for(load16(scales + 2 * k), is_fp16, &scale)) return false;
        store16(scales + 2 * k, scale);
        factors[k] = factor_for(scale);
    }
    for (size_t row = 0; row < shape.rows; row++) {
        const uint8_t *from = words + 2 * shape.channels * row;
        int8_t *to = codes + shape.channels * row;
        for (size_t k = 0; k < shape.channels; k++) to[k] = quantise(load16(from + 2 * k), factors[k], is_fp16);
    }
    return true;
}

BODY bool encode_values(const uint8_t *restrict words, ckernels_int8_shape shape, bool is_fp16,
                        uint8_t *restrict scales, int8_t *restrict codes) {
    for (size_t row = 0; row < shape.rows; row++) {
        for (size_t first = 0; first < shape.channels; first += shape.group) {
            size_t count = shape.channels - first < shape.group ? shape.channels - first : shape.group;
            uint16_t largest = 0, scale;
            for (size_t k = 0; k < count; k++) {
                uint16_t magnitude = load16(words + 2 * k) & 0x7FFF;
                largest = magnitude > largest ? magnitude : largest;
            }
            if (!scale_for(largest, is_fp16, &scale)) return false;
            store16(scales, scale);
            float factor = factor_for(scale);
            for (size_t k = 0; k < count; k++) codes[k] = quantise(load16(words + 2 * k), factor, is_fp16);
            words += 2 * count;
            codes += count;
            scales += 2;
        }
    }
    return true;
}

BODY void decode_keys(const uint8_t *restrict scales, const int8_t *restrict codes, ckernels_int8_shape shape,
                      bool is_fp16, uint8_t *restrict words, float *restrict steps) {
    for (size_t k = 0; k < shape.channels; k++) steps[k] = as_float((uint32_t)load16(scales + 2 * k) << 16);
    for (size_t row = 0; row < shape.rows; row++) {
        const int8_t *from = codes + shape.channels * row;
        uint8_t *to = words + 2 * shape.channels * row;
        for (size_t k = 0; k < shape.channels; k++) {
            store16(to + 2 * k, from_float((float)from[k] * steps[k], is_fp16));
        }
    }
}

BODY void decode_values(const uint8_t *restrict scales, const int8_t *restrict codes, ckernels_int8_shape shape,
                        bool is_fp16, uint8_t *restrict words) {
    for (size_t row = 0; row < shape.rows; row++) {
        for (size_t first = 0; first < shape.channels; first += shape.group) {
            size_t count = shape.channels - first < shape.group ? shape.channels - first : shape.group;
            float step = as_float((uint32_t)load16(scales) << 16);
            for (size_t k = 0; k < count; k++) store16(words + 2 * k, from_float((float)codes[k] * step, is_fp16));
            words += 2 * count;
            codes += count;
            scales += 2;
        }
    }
}

// The element type is a constant in each call, so that no loop asks for it.
#define DEFINE_INT8(suffix, target)                                                                                   \
    target static bool encode##suffix(const uint8_t *words, ckernels_int8_shape shape, uint8_t *scales,               \
                                      int8_t *codes, float *factors) {                                                \
        if (shape.group == 0) {                                                                                       \
            return shape.is_fp16 ? encode_keys(words, shape, true, scales, codes, factors)                            \
                                 : encode_keys(words, shape, false, scales, codes, factors);                          \
        }                                                                                                             \
        return shape.is_fp16 ? encode_values(words, shape, true, scales, codes)                                       \
                             : encode_values(words, shape, false, scales, codes);                                     \
    }                                                                                                                 \
    target static void decode##suffix(const uint8_t *scales, const int8_t *codes, ckernels_int8_shape shape,          \
                                      uint8_t *words, float *factors) {                                               \
        if (shape.group == 0) {                                                                                       \
            shape.is_fp16 ? decode_keys(scales, codes, shape, true, words, factors)                                   \
                          : decode_keys(scales, codes, shape, false, words, factors);                                 \
        } else {                                                                                                      \
            shape.is_fp16 ? decode_values(scales, codes, shape, true, words)                                          \
                          : decode_values(scales, codes, shape, false, words);                                        \
        }                                                                                                             \
    }

DEFINE_INT8(_portable, )
#if CKERNELS_X86
DEFINE_INT8(_avx2, TARGET_AVX2)
DEFINE_INT8(_avx512, TARGET_AVX512)
#endif

bool ckernels_int8_encode(int level, const void *words, ckernels_int8_shape shape, uint8_t *scales, int8_t *codes,
                          float *factors) {
    DISPATCH(level, encode, words, shape, scales, codes, factors)
}

void ckernels_int8_decode(int level, const uint8_t *scales, const int8_t *codes, ckernels_int8_shape shape, void *words,
                          float *factors) {
    DISPATCH(level, decode, scales, codes, shape, words, factors)
}
