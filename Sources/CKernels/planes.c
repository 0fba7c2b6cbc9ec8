#include "levels.h"

static int best_level(void) {
#if CKERNELS_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) return CKERNELS_PORTABLE;
    bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl");
    return has512 ? CKERNELS_AVX512 : CKERNELS_AVX2;
#else
    return CKERNELS_PORTABLE;
#endif
}

int ckernels_best_level(void) {
    // Every thread finds the same number, so it does not matter which one stores it.
    static int known = -1;
    int level = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (level < 0) {
        level = best_level();
        __atomic_store_n(&known, level, __ATOMIC_RELAXED);
    }
    return level;
}

BODY void split(const uint8_t *restrict words, size_t count, uint8_t *restrict low, uint8_t *restrict high) {
    for (size_t i = 0; i < count; i++) {
        uint16_t rotated = rotate_left(load16(words + 2 * i));
        low[i] = (uint8_t)rotated;
        high[i] = (uint8_t)(rotated >> 8);
    }
}

BODY void merge(const uint8_t *restrict low, const uint8_t *restrict high, size_t count, uint8_t *restrict words) {
    for (size_t i = 0; i < count; i++) {
        store16(words + 2 * i, rotate_right((uint16_t)(low[i] | high[i] << 8)));
    }
}

#define DEFINE_PLANES(suffix, target)                                                                                 \
    target static void split##suffix(const uint8_t *words, size_t count, uint8_t *low, uint8_t *high) {               \
        split(words, count, low, high);                                                                               \
    }                                                                                                                 \
    target static void merge##suffix(const uint8_t *low, const uint8_t *high, size_t count, uint8_t *words) {         \
        merge(low, high, count, words);                                                                               \
    }

DEFINE_PLANES(_portable, )
#if CKERNELS_X86
DEFINE_PLANES(_avx2, TARGET_AVX2)
DEFINE_PLANES(_avx512, TARGET_AVX512)
#endif

void ckernels_split(int level, const void *words, size_t count, uint8_t *low, uint8_t *high) {
    DISPATCH(level, split, words, count, low, high)
}

void ckernels_merge(int level, const uint8_t *low, const uint8_t *high, size_t count, void *words) {
    DISPATCH(level, merge, low, high, count, words)
}
