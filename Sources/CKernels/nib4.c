#include "levels.h"

// A group is 64 words. The bases of a group are 64 bytes that can be loaded as they are: a broadcast base, a place in
// the table, or a copy where a row ends inside the group.

enum { GROUP = CKERNELS_GROUP, HALF = GROUP / 2, ESCAPE = 15, SAMPLE = 4096 };

/// Finds the 64 bases of each group in turn.
typedef struct {
    const uint8_t *slab;
    size_t channels, channel, slab_words, words_left;
    uint8_t copy[GROUP];
} walk;

BODY walk walk_start(ckernels_bases bases) {
    walk state = {bases.bases, bases.channels, 0, bases.slab_words, bases.slab_words, {0}};
    if (state.channels == 0) memset(state.copy, bases.bases[0], GROUP);
    return state;
}

BODY const uint8_t *walk_next(walk *state) {
    if (state->channels == 0) return state->copy;
    if (state->words_left == 0) {
        state->slab += state->channels;
        state->words_left = state->slab_words;
        state->channel = 0;
    }
    state->words_left -= GROUP;
    const uint8_t *found = state->slab + state->channel;
    if (state->channel + GROUP <= state->channels) {
        state->channel += GROUP;
        if (state->channel == state->channels) state->channel = 0;
        return found;
    }
    for (int k = 0; k < GROUP; k++) {
        state->copy[k] = state->slab[state->channel];
        state->channel = state->channel + 1 == state->channels ? 0 : state->channel + 1;
    }
    return state->copy;
}

// MARK: Portable

/// Returns a bit for each escape.
BODY uint64_t encode_group(const uint8_t *restrict words, const uint8_t *restrict bases, uint8_t *restrict low,
                           uint8_t *restrict codes) {
    uint8_t wide[GROUP];
    uint8_t largest = 0;
    for (int k = 0; k < GROUP; k++) {
        uint16_t rotated = rotate_left(load16(words + 2 * k));
        low[k] = (uint8_t)rotated;
        uint8_t distance = (uint8_t)(bases[k] - (uint8_t)(rotated >> 8));
        wide[k] = distance < ESCAPE ? distance : ESCAPE;
        largest = largest > wide[k] ? largest : wide[k];
    }
    for (int k = 0; k < HALF; k++) codes[k] = (uint8_t)(wide[k] | wide[k + HALF] << 4);
    if (largest < ESCAPE) return 0;
    uint64_t escapes = 0;
    for (int k = 0; k < GROUP; k++) escapes |= (uint64_t)(wide[k] == ESCAPE) << k;
    return escapes;
}

BODY void decode_group(const uint8_t *restrict low, const uint8_t *restrict codes, const uint8_t *restrict bases,
                       uint8_t *restrict words) {
    uint8_t wide[GROUP];
    for (int k = 0; k < HALF; k++) {
        wide[k] = codes[k] & 15;
        wide[k + HALF] = codes[k] >> 4;
    }
    for (int k = 0; k < GROUP; k++) {
        uint8_t exponent = (uint8_t)(bases[k] - wide[k]);
        store16(words + 2 * k, rotate_right((uint16_t)(low[k] | exponent << 8)));
    }
}

// MARK: AVX2 and AVX-512

#if CKERNELS_X86
TARGET_AVX2 static inline __attribute__((always_inline)) __m256i
codes_avx2(const uint8_t *words, const uint8_t *bases, uint8_t *low) {
    const __m256i byte = _mm256_set1_epi16(255);
    __m256i a = _mm256_loadu_si256((const __m256i *)words);
    __m256i b = _mm256_loadu_si256((const __m256i *)(words + 32));
    a = _mm256_or_si256(_mm256_slli_epi16(a, 1), _mm256_srli_epi16(a, 15));
    b = _mm256_or_si256(_mm256_slli_epi16(b, 1), _mm256_srli_epi16(b, 15));
    // Packing works in each half of the register on its own; the permutation puts the quarters in order.
    __m256i lows = _mm256_packus_epi16(_mm256_and_si256(a, byte), _mm256_and_si256(b, byte));
    __m256i highs = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
    _mm256_storeu_si256((__m256i *)low, _mm256_permute4x64_epi64(lows, 0xD8));
    highs = _mm256_permute4x64_epi64(highs, 0xD8);
    __m256i distance = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)bases), highs);
    return _mm256_min_epu8(distance, _mm256_set1_epi8(ESCAPE));
}

TARGET_AVX2 static inline __attribute__((always_inline)) uint64_t
encode_group_avx2(const uint8_t *words, const uint8_t *bases, uint8_t *low, uint8_t *codes) {
    const __m256i escape = _mm256_set1_epi8(ESCAPE);
    __m256i a = codes_avx2(words, bases, low);
    __m256i b = codes_avx2(words + 2 * HALF, bases + HALF, low + HALF);
    // Codes have four bits, so shifting pairs of them moves none into its neighbour.
    _mm256_storeu_si256((__m256i *)codes, _mm256_or_si256(a, _mm256_slli_epi16(b, 4)));
    uint32_t first = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, escape));
    uint32_t second = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, escape));
    return first | (uint64_t)second << HALF;
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
words_avx2(const uint8_t *low, __m256i code, const uint8_t *bases, uint8_t *words) {
    __m256i exponents = _mm256_sub_epi8(_mm256_loadu_si256((const __m256i *)bases), code);
    __m256i lows = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)low), 0xD8);
    exponents = _mm256_permute4x64_epi64(exponents, 0xD8);
    __m256i a = _mm256_unpacklo_epi8(lows, exponents);
    __m256i b = _mm256_unpackhi_epi8(lows, exponents);
    a = _mm256_or_si256(_mm256_srli_epi16(a, 1), _mm256_slli_epi16(a, 15));
    b = _mm256_or_si256(_mm256_srli_epi16(b, 1), _mm256_slli_epi16(b, 15));
    _mm256_storeu_si256((__m256i *)words, a);
    _mm256_storeu_si256((__m256i *)(words + 32), b);
}

TARGET_AVX2 static inline __attribute__((always_inline)) void
decode_group_avx2(const uint8_t *low, const uint8_t *codes, const uint8_t *bases, uint8_t *words) {
    const __m256i nibble = _mm256_set1_epi8(15);
    __m256i both = _mm256_loadu_si256((const __m256i *)codes);
    words_avx2(low, _mm256_and_si256(both, nibble), bases, words);
    words_avx2(low + HALF, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble), bases + HALF, words + 2 * HALF);
}

TARGET_AVX512 static inline __attribute__((always_inline)) uint64_t
encode_group_avx512(const uint8_t *words, const uint8_t *bases, uint8_t *low, uint8_t *codes) {
    const __m512i byte = _mm512_set1_epi16(255);
    const __m512i inOrder = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i escape = _mm512_set1_epi8(ESCAPE);
    __m512i a = _mm512_loadu_si512(words);
    __m512i b = _mm512_loadu_si512(words + 64);
    a = _mm512_or_si512(_mm512_slli_epi16(a, 1), _mm512_srli_epi16(a, 15));
    b = _mm512_or_si512(_mm512_slli_epi16(b, 1), _mm512_srli_epi16(b, 15));
    __m512i lows = _mm512_packus_epi16(_mm512_and_si512(a, byte), _mm512_and_si512(b, byte));
    __m512i highs = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
    _mm512_storeu_si512(low, _mm512_permutexvar_epi64(inOrder, lows));
    highs = _mm512_permutexvar_epi64(inOrder, highs);
    __m512i code = _mm512_min_epu8(_mm512_sub_epi8(_mm512_loadu_si512(bases), highs), escape);
    __m256i second = _mm512_extracti64x4_epi64(code, 1);
    __m256i both = _mm256_or_si256(_mm512_castsi512_si256(code), _mm256_slli_epi16(second, 4));
    _mm256_storeu_si256((__m256i *)codes, both);
    return _mm512_cmpeq_epi8_mask(code, escape);
}

TARGET_AVX512 static inline __attribute__((always_inline)) void
decode_group_avx512(const uint8_t *low, const uint8_t *codes, const uint8_t *bases, uint8_t *words) {
    const __m512i forUnpacking = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i both = _mm256_loadu_si256((const __m256i *)codes);
    __m512i code = _mm512_inserti64x4(_mm512_castsi256_si512(both), _mm256_srli_epi16(both, 4), 1);
    code = _mm512_and_si512(code, _mm512_set1_epi8(15));
    __m512i exponents = _mm512_sub_epi8(_mm512_loadu_si512(bases), code);
    exponents = _mm512_permutexvar_epi64(forUnpacking, exponents);
    __m512i lows = _mm512_permutexvar_epi64(forUnpacking, _mm512_loadu_si512(low));
    __m512i a = _mm512_unpacklo_epi8(lows, exponents);
    __m512i b = _mm512_unpackhi_epi8(lows, exponents);
    a = _mm512_or_si512(_mm512_srli_epi16(a, 1), _mm512_slli_epi16(a, 15));
    b = _mm512_or_si512(_mm512_srli_epi16(b, 1), _mm512_slli_epi16(b, 15));
    _mm512_storeu_si512(words, a);
    _mm512_storeu_si512(words + 64, b);
}
#endif

// MARK: Loops over groups

#define DEFINE_LOOPS(suffix, target)                                                                                  \
    target static size_t encode##suffix(const uint8_t *words, size_t count, ckernels_bases bases, uint8_t *low,       \
                                        uint8_t *codes, uint8_t *escapes, size_t capacity) {                          \
        walk state = walk_start(bases);                                                                               \
        size_t escape_count = 0;                                                                                      \
        for (size_t i = 0; i < count; i += GROUP) {                                                                   \
            uint64_t found = encode_group##suffix(words + 2 * i, walk_next(&state), low + i, codes + i / 2);          \
            while (__builtin_expect(found != 0, 0)) {                                                                 \
                if (escape_count == capacity) return capacity + 1;                                                    \
                size_t place = i + (size_t)__builtin_ctzll(found);                                                    \
                uint32_t exponent = (uint32_t)(load16(words + 2 * place) >> 7) & 255;                                 \
                store32(escapes + 4 * escape_count, (uint32_t)place | exponent << 24);                                \
                escape_count += 1;                                                                                    \
                found &= found - 1;                                                                                   \
            }                                                                                                         \
        }                                                                                                             \
        return escape_count;                                                                                          \
    }                                                                                                                 \
    target static void decode##suffix(const uint8_t *low, const uint8_t *codes, size_t count, ckernels_bases bases,   \
                                      uint8_t *words) {                                                               \
        walk state = walk_start(bases);                                                                               \
        for (size_t i = 0; i < count; i += GROUP) {                                                                   \
            decode_group##suffix(low + i, codes + i / 2, walk_next(&state), words + 2 * i);                           \
        }                                                                                                             \
    }                                                                                                                 \
    target static uint8_t largest##suffix(const uint8_t *words, size_t count) {                                       \
        uint16_t largest = 0;                                                                                         \
        for (size_t i = 0; i < count; i++) {                                                                          \
            uint16_t magnitude = load16(words + 2 * i) & 0x7FFF;                                                      \
            largest = largest > magnitude ? largest : magnitude;                                                      \
        }                                                                                                             \
        return (uint8_t)(largest >> 7);                                                                               \
    }                                                                                                                 \
    target static void channels##suffix(const uint8_t *words, size_t rows, size_t channels, uint8_t *restrict bases) { \
        memset(bases, 0, channels);                                                                                   \
        for (size_t row = 0; row < rows; row++, words += 2 * channels) {                                              \
            for (size_t channel = 0; channel < channels; channel++) {                                                 \
                uint8_t exponent = (uint8_t)(load16(words + 2 * channel) >> 7);                                       \
                bases[channel] = bases[channel] > exponent ? bases[channel] : exponent;                               \
            }                                                                                                         \
        }                                                                                                             \
    }

#define encode_group_portable encode_group
#define decode_group_portable decode_group
DEFINE_LOOPS(_portable, )
#if CKERNELS_X86
DEFINE_LOOPS(_avx2, TARGET_AVX2)
DEFINE_LOOPS(_avx512, TARGET_AVX512)
#endif

uint8_t ckernels_nib4_largest_exponent(int level, const void *words, size_t count) {
    DISPATCH(level, largest, words, count)
}

void ckernels_nib4_channel_bases(int level, const void *words, size_t rows, size_t channels, uint8_t *bases) {
    DISPATCH(level, channels, words, rows, channels, bases)
}

size_t ckernels_nib4_encode(int level, const void *words, size_t count, ckernels_bases bases, uint8_t *low,
                            uint8_t *codes, uint8_t *escapes, size_t capacity) {
    DISPATCH(level, encode, words, count, bases, low, codes, escapes, capacity)
}

static void decode_planes(int level, const uint8_t *low, const uint8_t *codes, size_t count, ckernels_bases bases,
                          uint8_t *words) {
    DISPATCH(level, decode, low, codes, count, bases, words)
}

bool ckernels_nib4_decode(int level, const uint8_t *low, const uint8_t *codes, size_t count, ckernels_bases bases,
                          const uint8_t *escapes, size_t escape_count, void *words) {
    decode_planes(level, low, codes, count, bases, words);
    size_t next = 0;
    for (size_t i = 0; i < escape_count; i++) {
        uint32_t escape = load32(escapes + 4 * i);
        size_t place = escape & 0xFFFFFF;
        if (place < next || place >= count) return false;
        uint8_t *word = (uint8_t *)words + 2 * place;
        store16(word, (uint16_t)((load16(word) & 0x807F) | (escape >> 24) << 7));
        next = place + 1;
    }
    return true;
}

uint8_t ckernels_nib4_common_base(const void *words, size_t count, uint8_t largest) {
    // Four tables, because adding twice in a row to one number waits for the first.
    uint16_t counts[4][256] = {{0}};
    size_t samples = count < SAMPLE ? count : SAMPLE;
    for (size_t i = 0; i < samples; i++) {
        // Evenly spread, but each shifted by another part of its step: a channel must not be all that is seen.
        uint64_t shift = (uint32_t)(i * 2654435761u);
        size_t first = count * i / samples, step = count * (i + 1) / samples - first;
        size_t place = first + (size_t)(shift * step >> 32);
        counts[i & 3][load16((const uint8_t *)words + 2 * place) >> 7 & 255] += 1;
    }
    // Sums over the 15 exponents below and at each base.
    uint8_t best = largest;
    unsigned most = 0;
    for (int base = largest; base >= 0; base--) {
        unsigned inside = 0;
        for (int exponent = base; exponent >= 0 && exponent > base - ESCAPE; exponent--) {
            for (int table = 0; table < 4; table++) inside += counts[table][exponent];
        }
        if (inside > most) {
            most = inside;
            best = (uint8_t)base;
        }
    }
    return best;
}
