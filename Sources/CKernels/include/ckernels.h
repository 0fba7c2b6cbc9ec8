#ifndef CKERNELS_H
#define CKERNELS_H

// The inner loops of the codecs nib4, nib4h, hsplit and int8, and of copying. Each function takes the level of
// instructions to use; all levels give the same bytes. Nothing here allocates, keeps state or looks at a length in the
// data: callers check.
//
// Words are 16 bits, little-endian, at any address. The byte formats are in OnDiskFormat.md.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CKERNELS_PORTABLE = 0,
    CKERNELS_AVX2 = 1,
    CKERNELS_AVX512 = 2,
    // Words that are coded together.
    CKERNELS_GROUP = 64,
};

/// The highest level that this processor has. A higher one given to a function is lowered to it.
int ckernels_best_level(void);

// MARK: Planes

/// Rotates each word left by one bit and stores the low bytes in `low`, the high bytes in `high`, `count` each.
void ckernels_split(int level, const void *words, size_t count, uint8_t *low, uint8_t *high);

/// The inverse of `ckernels_split`.
void ckernels_merge(int level, const uint8_t *low, const uint8_t *high, size_t count, void *words);

// MARK: nib4

/// Where the exponents are counted from: one base for all words, or one for each channel of each slab.
typedef struct {
    const uint8_t *bases;
    /// 0: `bases[0]` is that of every word. Else the words of a row; `bases` holds this many for each slab.
    size_t channels;
    /// Words of one slab, a multiple of 64; only read when `channels` is not 0.
    size_t slab_words;
} ckernels_bases;

/// The largest exponent of `count` bf16 words.
uint8_t ckernels_nib4_largest_exponent(int level, const void *words, size_t count);

/// The base that leaves the fewest of a sample of 4096 words outside its 15 exponents; of equal ones the largest, but
/// none above `largest`.
uint8_t ckernels_nib4_common_base(const void *words, size_t count, uint8_t largest);

/// The largest exponent of each channel of `rows` rows of `channels` words.
void ckernels_nib4_channel_bases(int level, const void *words, size_t rows, size_t channels, uint8_t *bases);

/// Codes `count` words, a multiple of 64: `count` bytes to `low`, `count / 2` to `codes`, 4 for each escape to
/// `escapes`. Returns the escapes, or `capacity` + 1 as soon as there are more than `capacity`; the planes are then incomplete.
size_t ckernels_nib4_encode(int level, const void *words, size_t count, ckernels_bases bases, uint8_t *low,
                            uint8_t *codes, uint8_t *escapes, size_t capacity);

/// Decodes `count` words, a multiple of 64. False if the escapes' places do not rise, or one is not below `count`.
bool ckernels_nib4_decode(int level, const uint8_t *low, const uint8_t *codes, size_t count, ckernels_bases bases,
                          const uint8_t *escapes, size_t escape_count, void *words);

// MARK: int8

/// How a slab's words become scales and signed bytes.
typedef struct {
    size_t rows;
    /// Words of a row.
    size_t channels;
    /// 0: one scale for each channel (keys). Else one for each `group` words of each row (values); the last group of a
    /// row can be shorter.
    size_t group;
    /// IEEE half precision instead of bf16.
    bool is_fp16;
} ckernels_int8_shape;

/// Quantises one slab. `scales` gets bf16 numbers, little-endian: `channels` of them for keys, rows × groups for values.
/// `factors` is scratch for `channels` floats.
///
/// Returns false when a scale would be out of range: there are NaN, infinities, or numbers too large or too small.
bool ckernels_int8_encode(int level, const void *words, ckernels_int8_shape shape, uint8_t *scales, int8_t *codes,
                          float *factors);

/// The inverse of `ckernels_int8_encode`, for any scales and codes.
void ckernels_int8_decode(int level, const uint8_t *scales, const int8_t *codes, ckernels_int8_shape shape,
                          void *words, float *factors);

// MARK: Copies

/// Copies `count` bytes to `cached` and the same bytes to `streamed`, reading each byte of `source` once, so that both
/// are equal even if others write there. What goes to `streamed` goes around the caches if its address is a multiple of
/// 64; call `ckernels_copies_done` before another thread is told of it.
void ckernels_copy_twice(int level, const void *source, void *cached, void *streamed, size_t count);

/// What this thread stores from now on is visible to others no sooner than what it has copied.
void ckernels_copies_done(void);

#endif
