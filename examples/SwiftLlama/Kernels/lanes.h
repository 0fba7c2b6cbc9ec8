#ifndef LLAMA_LANES_H
#define LLAMA_LANES_H

#include "llama_kernels.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights and cache are read as they are stored, so the machine must be little-endian"
#endif

// A product and the addition next to it become one instruction where there is one, everywhere alike.
#pragma STDC FP_CONTRACT ON
// Vectors only pass between functions that are inlined into each other.
#pragma clang diagnostic ignored "-Wpsabi"

#define BODY static inline __attribute__((always_inline))

typedef float lanes __attribute__((vector_size(4 * LLAMA_LANES)));
typedef int32_t words __attribute__((vector_size(4 * LLAMA_LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LLAMA_LANES)));

BODY lanes load(const float *at) {
    lanes value;
    memcpy(&value, at, sizeof value);
    return value;
}

BODY void store(float *at, lanes value) { memcpy(at, &value, sizeof value); }

BODY lanes splat(float value) { return (lanes){} + value; }

BODY float widen_one(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

BODY uint16_t load_half(const void *at, size_t index) {
    uint16_t bits;
    memcpy(&bits, (const char *)at + 2 * index, sizeof bits);
    return bits;
}

BODY lanes widen(const void *at, size_t index) {
    halves bits;
    memcpy(&bits, (const char *)at + 2 * index, sizeof bits);
    return (lanes)(__builtin_convertvector(bits, words) << 16);
}

// A fixed tree: the sum does not depend on who calls.
BODY float sum_of(lanes value) {
    for (int width = LLAMA_LANES / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; i++) value[i] += value[i + width];
    }
    return value[0];
}

BODY lanes choose(words mask, lanes yes, lanes no) { return (lanes)((mask & (words)yes) | (~mask & (words)no)); }

// e^x for each lane, to about 2 units in the last place: 2^n * e^r with |r| <= ln 2 / 2, and e^r by its series up to
// r^7. Below -87 the result is e^-87, which is as good as nothing beside the 1 that every sum here contains.
BODY lanes exponential(lanes x) {
    lanes least = splat(-87.0f), largest = splat(88.0f);
    x = choose(x > least, x, least);
    x = choose(x < largest, x, largest);
    // Adding 1.5 * 2^23 rounds to a whole number.
    lanes shifted = x * 1.44269504f + 12582912.0f;
    words power = (words)shifted - 0x4B400000;
    lanes n = shifted - 12582912.0f;
    lanes r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    lanes sum = r * (1.0f / 5040) + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    return sum * (lanes)((power + 127) << 23);
}

BODY size_t least_of(size_t a, size_t b) { return a < b ? a : b; }

// Calls the variant of `name` for the machine.
#if defined(__x86_64__)
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl"), min_vector_width(512)))
#define DISPATCH(name, ...)                                                                                           \
    switch (llama_level()) {                                                                                          \
        case LEVEL_AVX512: return name##_avx512(__VA_ARGS__);                                                         \
        case LEVEL_AVX2: return name##_avx2(__VA_ARGS__);                                                             \
        default: return name##_portable(__VA_ARGS__);                                                                 \
    }
#else
#define DISPATCH(name, ...) return name##_portable(__VA_ARGS__);
#endif

enum { LEVEL_PORTABLE, LEVEL_AVX2, LEVEL_AVX512 };

int llama_level(void);

#endif
