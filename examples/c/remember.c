/*
 * Remembers the KV blocks of texts across runs: the smallest whole user of kvstore from C.
 *
 *     cc remember.c $(pkg-config --cflags --libs kvstore) -o remember
 *     ./remember DIRECTORY "a text of some length"
 *
 * Every byte of the text is a token, 16 of them a block. What an engine would compute is a stand-in here: bytes that
 * follow from all tokens up to the block, so that the program can tell whether what it finds is right. Run it twice, or with a
 * text that begins alike, and it finds what the earlier run stored.
 */
#include <kvstore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_PER_BLOCK = 16, LAYERS = 2, HEADS = 2, DIMENSION = 64, MAX_TOKENS = 4096, MAX_BLOCKS = 256 };

static void fail(const char *what, kvstore_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, kvstore_status_name(status), kvstore_last_error());
    exit(1);
}

/* Stands for a forward pass over the tokens of a block and everything before it. */
static void compute(const uint32_t *tokens, size_t block, unsigned char *bytes, size_t count) {
    uint64_t state = 1469598103934665603u;
    for (size_t index = 0; index < (block + 1) * TOKENS_PER_BLOCK; index++) {
        state = (state ^ tokens[index]) * 1099511628211u;
    }
    for (size_t index = 0; index < count; index++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[index] = (unsigned char)(state >> 56);
    }
}

static kvstore_store open_store(const char *directory) {
    kvstore_options options;
    kvstore_store store;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    /* Over after one look, so nothing is read ahead of it. */
    options.flags = KVSTORE_WAIT_UNTIL_WARM | KVSTORE_NO_WARM_UP;
    options.memory_bytes = 64u << 20;
    options.disk_path = directory;
    options.disk_bytes = 256u << 20;
    kvstore_status status = kvstore_open(&options, &store);
    if (status != KVSTORE_OK) fail("kvstore_open", status);
    return store;
}

static kvstore_namespace open_namespace(kvstore_store store, size_t *block_bytes) {
    kvstore_identity identity;
    kvstore_namespace_info info;
    kvstore_namespace space;
    memset(&identity, 0, sizeof identity);
    identity.struct_size = sizeof identity;
    identity.element_type = KVSTORE_BF16;
    identity.model = "kvstore-example";
    identity.revision = "1";
    identity.layers = LAYERS;
    identity.key_heads = HEADS;
    identity.key_head_dimension = DIMENSION;
    identity.tokens_per_block = TOKENS_PER_BLOCK;
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    kvstore_status status = kvstore_namespace_open(store, &identity, &space, &info);
    if (status != KVSTORE_OK) fail("kvstore_namespace_open", status);
    *block_bytes = (size_t)info.block_bytes;
    return space;
}

/* Reads what is stored, in place, and checks it. Returns how many blocks need not be computed. */
static size_t use_stored(kvstore_namespace space, const uint32_t *tokens, const kvstore_prefix *prefix, size_t bytes) {
    const void *blocks[MAX_BLOCKS];
    unsigned char *expected = malloc(bytes);
    kvstore_lease lease;
    size_t count;
    kvstore_status status = kvstore_acquire(space, prefix, 0, &lease, blocks, MAX_BLOCKS, &count);
    if (status < 0 || !expected) fail("kvstore_acquire", status);
    for (size_t block = 0; block < count; block++) {
        compute(tokens, block, expected, bytes);
        if (memcmp(expected, blocks[block], bytes) != 0) {
            fprintf(stderr, "block %zu is not what was stored\n", block);
            exit(1);
        }
    }
    if (count > 0) kvstore_release(lease);
    free(expected);
    return count;
}

/* Computes what is missing, into the store's own memory. Returns how many blocks became visible. */
static size_t store_missing(kvstore_namespace space, const uint32_t *tokens, const kvstore_prefix *prefix, size_t bytes) {
    uint32_t numbers[MAX_BLOCKS];
    void *places[MAX_BLOCKS];
    kvstore_reservation reservation;
    size_t count, visible, total = 0;
    /* Fewer places than missing blocks is a normal answer: ask until there is nothing left. */
    while (kvstore_reserve(space, prefix, &reservation, numbers, places, MAX_BLOCKS, &count) == KVSTORE_OK) {
        for (size_t index = 0; index < count; index++) compute(tokens, numbers[index], places[index], bytes);
        kvstore_status status = kvstore_commit(reservation, &visible);
        if (status < 0) fail("kvstore_commit", status);
        if (visible == 0) break; /* somebody else was first */
        total += visible;
    }
    return total;
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: %s DIRECTORY TEXT\n", arguments[0]);
        return 64;
    }
    static uint32_t tokens[MAX_TOKENS];
    size_t token_count = strlen(arguments[2]);
    if (token_count > MAX_TOKENS) token_count = MAX_TOKENS;
    for (size_t index = 0; index < token_count; index++) tokens[index] = (unsigned char)arguments[2][index];

    kvstore_store store = open_store(arguments[1]);
    size_t block_bytes;
    kvstore_namespace space = open_namespace(store, &block_bytes);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, token_count);
    kvstore_match match;
    memset(&match, 0, sizeof match);
    match.struct_size = sizeof match;
    kvstore_status status = kvstore_lookup(space, &prefix, &match);
    if (status < 0) fail("kvstore_lookup", status);

    size_t found = use_stored(space, tokens, &prefix, block_bytes);
    size_t stored = store_missing(space, tokens, &prefix, block_bytes);
    printf("kvstore %s: %u blocks of %zu bytes: %zu found (%u on disk), %zu computed and stored\n", kvstore_version(),
        (unsigned)match.prefix_block_count, block_bytes, found, (unsigned)match.disk_block_count, stored);

    kvstore_namespace_close(space);
    status = kvstore_close(store); /* writes to disk what is only in memory */
    if (status != KVSTORE_OK) fail("kvstore_close", status);
    return 0;
}
