#include "lanes.h"

static int best_level(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return LEVEL_PORTABLE;
    bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl");
    return has512 ? LEVEL_AVX512 : LEVEL_AVX2;
#else
    return LEVEL_PORTABLE;
#endif
}

int llama_level(void) {
    // Every thread finds the same number, so it does not matter which one stores it.
    static int known = -1;
    int level = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (level < 0) {
        level = best_level();
        __atomic_store_n(&known, level, __ATOMIC_RELAXED);
    }
    return level;
}

const char *llama_level_name(void) {
    switch (llama_level()) {
        case LEVEL_AVX512: return "avx512";
        case LEVEL_AVX2: return "avx2";
        default: return "portable";
    }
}

void llama_pack(const void *weights, size_t outputs, size_t inputs, uint16_t *panels) {
    for (size_t first = 0; first < outputs; first += LLAMA_LANES, panels += inputs * LLAMA_LANES) {
        for (size_t lane = 0; lane < LLAMA_LANES; lane++) {
            bool exists = first + lane < outputs;
            for (size_t input = 0; input < inputs; input++) {
                panels[input * LLAMA_LANES + lane] = exists ? load_half(weights, (first + lane) * inputs + input) : 0;
            }
        }
    }
}

// A tile of `rows` by `count` panels, both known where this is inlined, so that all sums stay in registers.
BODY void tile(const float *x, size_t rows, size_t inputs, const uint16_t *panel, size_t count, size_t valid,
               size_t outputs, float *y, bool add) {
    lanes sums[8][2] = {};
    for (size_t input = 0; input < inputs; input++) {
        lanes weights[2];
#pragma clang loop unroll(full)
        for (size_t p = 0; p < count; p++) weights[p] = widen(panel, (p * inputs + input) * LLAMA_LANES);
#pragma clang loop unroll(full)
        for (size_t row = 0; row < rows; row++) {
            lanes factor = splat(x[row * inputs + input]);
#pragma clang loop unroll(full)
            for (size_t p = 0; p < count; p++) sums[row][p] = sums[row][p] + weights[p] * factor;
        }
    }
#pragma clang loop unroll(full)
    for (size_t row = 0; row < rows; row++) {
#pragma clang loop unroll(full)
        for (size_t p = 0; p < count; p++) {
            float *to = y + row * outputs + p * LLAMA_LANES;
            size_t here = valid - p * LLAMA_LANES;
            lanes sum = sums[row][p];
            if (here >= LLAMA_LANES) {
                store(to, add ? load(to) + sum : sum);
            } else {
                for (size_t lane = 0; lane < here; lane++) to[lane] = add ? to[lane] + sum[lane] : sum[lane];
            }
        }
    }
}

// `height` rows by `width` panels at a time: as many sums as the registers of the instruction set hold.
BODY void multiply(const float *x, size_t rows, size_t inputs, const uint16_t *panels, size_t first_panel,
                   size_t end_panel, size_t outputs, float *y, bool add, size_t height, size_t width) {
    for (size_t panel = first_panel; panel < end_panel; panel += width) {
        const uint16_t *weights = panels + panel * inputs * LLAMA_LANES;
        size_t valid = outputs - panel * LLAMA_LANES;
        bool isWhole = panel + width <= end_panel;
        size_t row = 0;
        for (; row < rows && isWhole; row += height) {
            if (row + height > rows) break;
            tile(x + row * inputs, height, inputs, weights, width, valid, outputs,
                 y + row * outputs + panel * LLAMA_LANES, add);
        }
        for (; row < rows; row++) {
            const float *from = x + row * inputs;
            float *to = y + row * outputs + panel * LLAMA_LANES;
            if (isWhole) {
                tile(from, 1, inputs, weights, width, valid, outputs, to, add);
            } else {
                tile(from, 1, inputs, weights, 1, valid, outputs, to, add);
            }
        }
    }
}

#define DEFINE_MULTIPLY(suffix, target, height, width)                                                                \
    target static void multiply##suffix(const float *x, size_t rows, size_t inputs, const uint16_t *panels,           \
                                        size_t first, size_t end, size_t outputs, float *y, bool add) {               \
        multiply(x, rows, inputs, panels, first, end, outputs, y, add, height, width);                                \
    }

DEFINE_MULTIPLY(_portable, , 2, 1)
#if defined(__x86_64__)
DEFINE_MULTIPLY(_avx2, TARGET_AVX2, 4, 1)
DEFINE_MULTIPLY(_avx512, TARGET_AVX512, 8, 2)
#endif

void llama_multiply(const float *x, size_t rows, size_t inputs, const uint16_t *panels, size_t first_panel,
                    size_t end_panel, size_t outputs, float *y, bool add) {
    DISPATCH(multiply, x, rows, inputs, panels, first_panel, end_panel, outputs, y, add)
}
