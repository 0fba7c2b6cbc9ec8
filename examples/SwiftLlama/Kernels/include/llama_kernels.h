// The loops of a Llama's forward pass: bf16 weights and cache, f32 activations.
//
// Every number of a result is made by the same additions in the same order, whatever the number of rows, the row's
// place among them, the panels a call covers or the thread that makes it. So a token's K, V and logits do not depend on
// how a prompt was cut into chunks or what else was in the batch. They do depend on the instruction set (a fused
// multiplication and addition rounds once), which therefore belongs to the cache's identity: llama_level_name().
//
// Pointers must be valid for the sizes that follow from the other arguments; nothing is kept. Any thread may call.
#ifndef LLAMA_KERNELS_H
#define LLAMA_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Outputs that are computed side by side; a panel of packed weights holds as many rows of the matrix.
enum { LLAMA_LANES = 16 };

// The instruction set in use: "avx512", "avx2" or "portable".
const char *llama_level_name(void);

// Repacks a matrix [outputs][inputs] of bf16 into panels [outputs / 16][inputs][16], the last one filled with zeros.
// `panels` is the first of ceil(outputs / 16) panels.
void llama_pack(const void *weights, size_t outputs, size_t inputs, uint16_t *panels);

// y[row][output] = sum over inputs of x[row][input] * weights[output][input], for the outputs of panels
// first_panel..<end_panel; with `add`, the sum is added to what y holds. Rows of x have `inputs` numbers, rows of y
// `outputs`.
void llama_multiply(const float *x, size_t rows, size_t inputs, const uint16_t *panels, size_t first_panel,
                    size_t end_panel, size_t outputs, float *y, bool add);

// out[i] = x[i] / sqrt(mean(x²) + epsilon) * weight[i]
void llama_rms_norm(const float *x, const float *weight, size_t count, float epsilon, float *out);

// Rotates the pairs (x[i], x[i + dimension / 2]) of each of `heads` heads by the angles whose cosines and sines are
// given (dimension / 2 of each).
void llama_rotate(float *x, size_t heads, size_t dimension, const float *cosines, const float *sines);

// out[i] = silu(gate[i]) * up[i]
void llama_swiglu(const float *gate, const float *up, size_t count, float *out);

// Rounds to bf16, to nearest, ties to even.
void llama_narrow(const float *x, size_t count, void *out);

// Widens bf16 exactly.
void llama_widen(const void *x, size_t count, float *out);

// Where the query rows of one KV head lie. Row r belongs to token r / group, whose place in the sequence is
// first_position + r / group, and to head r % group of the heads that share this KV head.
typedef struct {
    size_t rows, group, dimension;
    size_t token_stride;  // floats from one token's queries to the next token's
    size_t first_position;
} llama_queries;

// One KV head's keys or values in one block: `tokens` vectors of bf16, `token_stride` numbers apart; the first stands at
// `first_position` of the sequence.
typedef struct {
    const void *vectors;
    size_t tokens, token_stride, first_position;
} llama_block;

// scores[row][block.first_position + token] = scale * (query · key). Writes up to 15 numbers past the last token.
void llama_scores(const float *queries, llama_queries shape, llama_block keys, float scale, float *scores,
                  size_t score_stride);

// Makes each row's scores up to its own position into exp(score - largest), and those up to the next multiple of 16
// zero; sums[row] is their sum.
void llama_exponentials(float *scores, llama_queries shape, size_t score_stride, float *sums);

// out[row] += sum over the block's tokens up to the row's own position of scores[row][position] * value. Rows of `out`
// have shape.dimension numbers.
void llama_mix(const float *scores, llama_queries shape, size_t score_stride, llama_block values, float *out);

#endif
