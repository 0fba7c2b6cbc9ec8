#include "lanes.h"

BODY void rms_norm(const float *x, const float *weight, size_t count, float epsilon, float *out) {
    lanes squares = {};
    size_t i = 0;
    for (; i + LLAMA_LANES <= count; i += LLAMA_LANES) {
        lanes value = load(x + i);
        squares = squares + value * value;
    }
    float sum = sum_of(squares);
    for (; i < count; i++) sum = sum + x[i] * x[i];
    float factor = 1.0f / __builtin_sqrtf(sum / (float)count + epsilon);
    for (i = 0; i < count; i++) out[i] = x[i] * factor * weight[i];
}

BODY void rotate(float *x, size_t heads, size_t dimension, const float *cosines, const float *sines) {
    size_t half = dimension / 2;
    for (size_t head = 0; head < heads; head++, x += dimension) {
        for (size_t i = 0; i < half; i++) {
            float first = x[i], second = x[i + half];
            x[i] = first * cosines[i] - second * sines[i];
            x[i + half] = second * cosines[i] + first * sines[i];
        }
    }
}

BODY lanes silu(lanes x) { return x / (1.0f + exponential(-x)); }

BODY void swiglu(const float *gate, const float *up, size_t count, float *out) {
    size_t i = 0;
    for (; i + LLAMA_LANES <= count; i += LLAMA_LANES) store(out + i, silu(load(gate + i)) * load(up + i));
    if (i == count) return;
    lanes gates = {}, ups = {};
    memcpy(&gates, gate + i, 4 * (count - i));
    memcpy(&ups, up + i, 4 * (count - i));
    lanes last = silu(gates) * ups;
    memcpy(out + i, &last, 4 * (count - i));
}

#define DEFINE_ELEMENTS(suffix, target)                                                                               \
    target static void rms_norm##suffix(const float *x, const float *weight, size_t count, float epsilon,             \
                                        float *out) {                                                                 \
        rms_norm(x, weight, count, epsilon, out);                                                                     \
    }                                                                                                                 \
    target static void rotate##suffix(float *x, size_t heads, size_t dimension, const float *cosines,                 \
                                      const float *sines) {                                                           \
        rotate(x, heads, dimension, cosines, sines);                                                                  \
    }                                                                                                                 \
    target static void swiglu##suffix(const float *gate, const float *up, size_t count, float *out) {                 \
        swiglu(gate, up, count, out);                                                                                 \
    }

DEFINE_ELEMENTS(_portable, )
#if defined(__x86_64__)
DEFINE_ELEMENTS(_avx2, TARGET_AVX2)
DEFINE_ELEMENTS(_avx512, TARGET_AVX512)
#endif

void llama_rms_norm(const float *x, const float *weight, size_t count, float epsilon, float *out) {
    DISPATCH(rms_norm, x, weight, count, epsilon, out)
}

void llama_rotate(float *x, size_t heads, size_t dimension, const float *cosines, const float *sines) {
    DISPATCH(rotate, x, heads, dimension, cosines, sines)
}

void llama_swiglu(const float *gate, const float *up, size_t count, float *out) {
    DISPATCH(swiglu, gate, up, count, out)
}

void llama_narrow(const float *x, size_t count, void *out) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        // A NaN stays one: rounding it up could make it infinity.
        bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
        uint16_t narrow = is_nan ? 0x7FC0 : (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
        memcpy((char *)out + 2 * i, &narrow, sizeof narrow);
    }
}

void llama_widen(const void *x, size_t count, float *out) {
    for (size_t i = 0; i < count; i++) out[i] = widen_one(load_half(x, i));
}
