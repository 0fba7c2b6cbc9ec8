#ifndef CKERNELS_LEVELS_H
#define CKERNELS_LEVELS_H

#include "ckernels.h"

#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernels read stored words as they are, so the machine must be little-endian"
#endif

#if defined(__x86_64__)
#define CKERNELS_X86 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512vl")))
#endif

// A loop written once and compiled for each level: inlined into functions that differ in their target only.
#define BODY static inline __attribute__((always_inline))

BODY uint16_t load16(const uint8_t *bytes) {
    uint16_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

BODY void store16(uint8_t *bytes, uint16_t word) { memcpy(bytes, &word, sizeof word); }

BODY uint32_t load32(const uint8_t *bytes) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

BODY void store32(uint8_t *bytes, uint32_t word) { memcpy(bytes, &word, sizeof word); }

BODY uint16_t rotate_left(uint16_t word) { return (uint16_t)(word << 1 | word >> 15); }

BODY uint16_t rotate_right(uint16_t word) { return (uint16_t)(word >> 1 | word << 15); }

BODY int usable(int level) {
    int best = ckernels_best_level();
    return level < best ? level : best;
}

// Calls the variant of `name` for the level.
#if CKERNELS_X86
#define DISPATCH(level, name, ...)                                                                                    \
    switch (usable(level)) {                                                                                          \
        case CKERNELS_AVX512: return name##_avx512(__VA_ARGS__);                                                      \
        case CKERNELS_AVX2: return name##_avx2(__VA_ARGS__);                                                          \
        default: return name##_portable(__VA_ARGS__);                                                                 \
    }
#else
#define DISPATCH(level, name, ...)                                                                                    \
    (void)usable(level);                                                                                              \
    return name##_portable(__VA_ARGS__);
#endif

#endif
