// What every part of the program uses. CHECK prints where and what, and ends the program with 1.
#ifndef CHECK_H
#define CHECK_H

#include "kvstore.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s (last error: %s)\n", __FILE__, __LINE__, #condition, kvstore_last_error()); \
            exit(1); \
        } \
    } while (0)

// Fails with both statuses' names.
#define CHECK_STATUS(expression, expected) \
    do { \
        kvstore_status status_ = (expression); \
        if (status_ != (expected)) { \
            fprintf(stderr, "%s:%d: %s gave %s instead of %s (last error: %s)\n", __FILE__, __LINE__, #expression, \
                kvstore_status_name(status_), kvstore_status_name(expected), kvstore_last_error()); \
            exit(1); \
        } \
    } while (0)

enum { TOKENS_PER_BLOCK = 4, BLOCK_BYTES = 8192, PROMPT_BLOCKS = 8, PROMPT_TOKENS = 34 };

// A store of 32 MiB without a disk; with one when path is not null.
static inline kvstore_options small_options(const char *path) {
    kvstore_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.memory_bytes = 32 << 20;
    options.disk_path = path;
    options.disk_bytes = path ? 64 << 20 : 0;
    return options;
}

static inline kvstore_identity small_identity(const char *model) {
    kvstore_identity identity;
    memset(&identity, 0, sizeof identity);
    identity.struct_size = sizeof identity;
    identity.element_type = KVSTORE_BF16;
    identity.model = model;
    identity.layers = 4;
    identity.key_heads = 2;
    identity.key_head_dimension = 64;
    identity.tokens_per_block = TOKENS_PER_BLOCK;
    return identity;
}

// The tokens of prompt `number`: 8 blocks and two tokens.
static inline void fill_tokens(uint32_t number, uint32_t tokens[PROMPT_TOKENS]) {
    for (uint32_t index = 0; index < PROMPT_TOKENS; index++) tokens[index] = number * 1000 + index;
}

// The bytes of a block differ by prompt and block, so that swapped blocks are noticed.
static inline void fill_block(uint32_t number, uint32_t block, void *bytes) {
    uint32_t state = number * 2654435761u + block * 40503u + 1;
    unsigned char *out = bytes;
    for (size_t index = 0; index < BLOCK_BYTES; index++) {
        state = state * 1664525u + 1013904223u;
        out[index] = (unsigned char)(state >> 24);
    }
}

static inline int is_block(uint32_t number, uint32_t block, const void *bytes) {
    static _Thread_local unsigned char expected[BLOCK_BYTES];
    fill_block(number, block, expected);
    return memcmp(bytes, expected, BLOCK_BYTES) == 0;
}

void check_lifecycle(const char *directory);
void check_keys(void);
void check_negative(const char *directory);
void check_handles(void);
void check_fork(void);
void check_fork_with_disk(const char *directory);
void check_threads(void);
void check_daemon(const char *socket_path, int expects_daemon);
void fuzz(uint64_t seed, uint64_t calls, unsigned threads, const char *directory);

#endif
