// What must be refused: every status, every kind of bad argument.
#include "check.h"

static void *misaligned(void *pointer) { return (char *)pointer + 1; }

static void refuse_options(const char *directory) {
    kvstore_store store = 42;
    kvstore_options good = small_options(NULL), bad = good;
    CHECK_STATUS(kvstore_open(&good, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_open(&good, misaligned(&store)), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_open(misaligned(&good), &store), KVSTORE_INVALID_ARGUMENT);
    bad.struct_size = 0;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad.struct_size = sizeof bad - 8;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad.struct_size = UINT32_MAX;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.memory_bytes = 1;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    CHECK(strstr(kvstore_last_error(), "16 MiB") != NULL);
    bad = good, bad.memory_bytes = UINT64_MAX;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.flags = UINT32_MAX;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.disk_bytes = 1 << 30;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = small_options(directory), bad.disk_bytes = 0;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = small_options(directory), bad.codec = "zip";
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = small_options(directory), bad.codec = "\xff\xfe";
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = small_options(directory), bad.reader_threads = 1000;
    CHECK_STATUS(kvstore_open(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    CHECK(store == 42);

    // A program built with a later header: what it does not use is zero and does not disturb, what it uses is refused.
    struct { kvstore_options options; uint64_t later; } grown = {.options = good};
    grown.options.struct_size = sizeof grown;
    CHECK_STATUS(kvstore_open(&grown.options, &store), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    grown.later = 1;
    CHECK_STATUS(kvstore_open(&grown.options, &store), KVSTORE_INVALID_ARGUMENT);
}

static void refuse_connections(const char *directory) {
    kvstore_store store;
    kvstore_connect_options good = {.struct_size = sizeof good, .socket_path = "/nowhere/kvstore.sock"}, bad = good;
    CHECK_STATUS(kvstore_connect(NULL, &store), KVSTORE_INVALID_ARGUMENT);
    bad.socket_path = NULL;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    char path[200];
    memset(path, 'a', sizeof path - 1);
    path[sizeof path - 1] = 0;
    bad.socket_path = path;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.timeout_milliseconds = 600001;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.token_file = "/nowhere/token";
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad.token_file = "/dev/zero";
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad.token_file = directory;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.token_size = 5;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.token = "x", bad.token_size = SIZE_MAX;
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
    bad = good, bad.token = "x", bad.token_size = 1, bad.token_file = "/nowhere/token";
    CHECK_STATUS(kvstore_connect(&bad, &store), KVSTORE_INVALID_ARGUMENT);
}

static void refuse_identities(kvstore_store store) {
    kvstore_namespace space = 42;
    kvstore_identity good = small_identity("negative"), bad = good;
    kvstore_namespace_info info = {.struct_size = 3};
#define REFUSE(change) \
    do { \
        bad = good; \
        change; \
        CHECK_STATUS(kvstore_namespace_open(store, &bad, &space, NULL), KVSTORE_INVALID_ARGUMENT); \
    } while (0)
    CHECK_STATUS(kvstore_namespace_open(store, NULL, &space, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_namespace_open(store, &good, NULL, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_namespace_open(store, &good, &space, &info), KVSTORE_INVALID_ARGUMENT);
    REFUSE(bad.model = NULL);
    REFUSE(bad.model = "");
    REFUSE(bad.model = "\xc3\x28");
    REFUSE(bad.tokens_per_block = 0);
    REFUSE(bad.tokens_per_block = 70000);
    REFUSE(bad.layers = UINT32_MAX);
    REFUSE(bad.layers = 0);
    REFUSE(bad.element_type = 7);
    REFUSE(bad.element_type = 258);
    REFUSE(bad.element_type = KVSTORE_OPAQUE);
    REFUSE(bad.tensor_parallel_rank = 1);
    REFUSE(bad.value_heads = KVSTORE_KEYS_ONLY);
    REFUSE(bad.opaque_block_bytes = UINT64_MAX);
    REFUSE(bad.opaque_block_bytes = 512 << 20);
    REFUSE(bad.allows_lossy_int8 = 2);
    REFUSE(bad.salt_size = 3);
    REFUSE((bad.salt = "salt", bad.salt_size = SIZE_MAX));
    REFUSE(bad.field_count = 1);
    kvstore_field fields[2] = {
        {.name = "one", .type = KVSTORE_FIELD_INTEGER, .integer = 1}, {.name = "one", .type = KVSTORE_FIELD_INTEGER}};
    REFUSE((bad.fields = fields, bad.field_count = 2));
    REFUSE((bad.fields = fields, bad.field_count = UINT32_MAX));
    fields[0].type = 9;
    REFUSE((bad.fields = fields, bad.field_count = 1));
    fields[0] = (kvstore_field){.name = NULL};
    REFUSE((bad.fields = fields, bad.field_count = 1));
    fields[0] = (kvstore_field){.name = "text", .bytes = "\xff", .byte_count = 1};
    REFUSE((bad.fields = fields, bad.field_count = 1));
    REFUSE((bad.fields = misaligned(fields), bad.field_count = 1));
#undef REFUSE
    CHECK(space == 42);

    // Integer 1 and text "1" are two identities; so are keys only and keys with values.
    uint8_t fingerprints[3][32];
    for (int number = 0; number < 3; number++) {
        bad = good;
        fields[0] = (kvstore_field){.name = "n", .type = number == 0 ? KVSTORE_FIELD_INTEGER : KVSTORE_FIELD_TEXT,
            .integer = 1, .bytes = "1", .byte_count = 1};
        bad.fields = fields;
        bad.field_count = 1;
        if (number == 2) bad.value_heads = bad.value_head_dimension = KVSTORE_KEYS_ONLY;
        info.struct_size = sizeof info;
        CHECK_STATUS(kvstore_namespace_open(store, &bad, &space, &info), KVSTORE_OK);
        CHECK(info.block_bytes == (number == 2 ? BLOCK_BYTES / 2 : BLOCK_BYTES));
        memcpy(fingerprints[number], info.fingerprint, 32);
        CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
    }
    CHECK(memcmp(fingerprints[0], fingerprints[1], 32) != 0 && memcmp(fingerprints[1], fingerprints[2], 32) != 0);
}

static void refuse_prefixes(kvstore_namespace space) {
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(3, tokens);
    kvstore_match match = {.struct_size = sizeof match};
    kvstore_prefix good = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS), bad = good;
#define REFUSE(change) \
    do { \
        bad = good; \
        change; \
        CHECK_STATUS(kvstore_lookup(space, &bad, &match), KVSTORE_INVALID_ARGUMENT); \
        CHECK_STATUS(kvstore_prefetch(space, &bad), KVSTORE_INVALID_ARGUMENT); \
        CHECK_STATUS(kvstore_remove(space, &bad, 0, NULL), KVSTORE_INVALID_ARGUMENT); \
    } while (0)
    CHECK_STATUS(kvstore_lookup(space, NULL, &match), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_lookup(space, &good, NULL), KVSTORE_INVALID_ARGUMENT);
    REFUSE(bad.struct_size = 12);
    REFUSE(bad.tokens = NULL);
    REFUSE(bad.tokens = misaligned(tokens));
    REFUSE(bad.token_count = SIZE_MAX);
    REFUSE(bad.token_count = (size_t)1 << 63);
    REFUSE(bad.token_count = KVSTORE_MAX_TOKENS + 1);
    REFUSE(bad.key_count = 1);
    REFUSE((bad.keys = tokens, bad.key_count = 1));
    kvstore_block_extra extras[2] = {{.block = 8}, {.block = 0}};
    REFUSE((bad.extras = extras, bad.extra_count = 1));
    REFUSE((bad.extras = extras, bad.extra_count = SIZE_MAX));
    REFUSE(bad.extra_count = 1);
    extras[0] = (kvstore_block_extra){.block = 0, .bytes = NULL, .byte_count = 4};
    REFUSE((bad.extras = extras, bad.extra_count = 1));
    extras[0] = (kvstore_block_extra){.block = 0, .bytes = "", .byte_count = SIZE_MAX};
    REFUSE((bad.extras = extras, bad.extra_count = 1));
    extras[0] = extras[1] = (kvstore_block_extra){.block = 1};
    REFUSE((bad.extras = extras, bad.extra_count = 2));

    good = kvstore_prefix_of_keys(tokens, 2, 32);
    REFUSE(bad.key_size = 0);
    REFUSE(bad.key_size = 256);
    REFUSE(bad.key_size = UINT32_MAX);
    REFUSE(bad.key_count = KVSTORE_MAX_BLOCKS + 1);
    REFUSE(bad.key_count = SIZE_MAX);
    REFUSE(bad.keys = NULL);
    REFUSE(bad.token_count = SIZE_MAX);
    REFUSE((bad.extras = extras, bad.extra_count = 1));
    uint32_t sizes[2] = {4, 0};
    REFUSE(bad.key_sizes = sizes);
    sizes[1] = 300;
    REFUSE(bad.key_sizes = sizes);
    REFUSE(bad.key_sizes = misaligned(sizes));
#undef REFUSE
    // No blocks: a miss, not an error.
    good = kvstore_prefix_of_tokens(tokens, TOKENS_PER_BLOCK - 1);
    CHECK_STATUS(kvstore_lookup(space, &good, &match), KVSTORE_MISS);
    good = kvstore_prefix_of_tokens(NULL, 0);
    CHECK_STATUS(kvstore_lookup(space, &good, &match), KVSTORE_MISS);
}

static void refuse_calls(kvstore_namespace space) {
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(4, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    const void *blocks[PROMPT_BLOCKS + 1];
    void *places[PROMPT_BLOCKS + 1];
    uint32_t numbers[PROMPT_BLOCKS + 1];
    kvstore_lease lease;
    kvstore_reservation reservation;
    size_t count;
    static unsigned char bytes[PROMPT_BLOCKS * BLOCK_BYTES + 8];
    const kvstore_status invalid = KVSTORE_INVALID_ARGUMENT;
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, NULL, blocks, 8, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, 8, NULL), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, NULL, 8, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, 0, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, SIZE_MAX, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, misaligned(blocks), 8, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 2, &lease, blocks, 8, &count), invalid);
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, 8, &count), KVSTORE_MISS);
    CHECK(lease == 0 && count == 0);
    CHECK_STATUS(kvstore_reserve(space, &prefix, NULL, numbers, places, 8, &count), invalid);
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, NULL, 8, &count), invalid);
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, misaligned(numbers), places, 8, &count), invalid);
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, places, SIZE_MAX, &count), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, NULL, 8, &count), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, bytes, BLOCK_BYTES - 1, &count), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, 9, 0, bytes, sizeof bytes, &count), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, SIZE_MAX, 0, bytes, sizeof bytes, &count), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, bytes, sizeof bytes, NULL), invalid);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, bytes, SIZE_MAX, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, NULL, BLOCK_BYTES, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, BLOCK_BYTES + 1, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, 9 * BLOCK_BYTES, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 1, bytes, 8 * BLOCK_BYTES, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, SIZE_MAX, &count), invalid);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, 0, &count), KVSTORE_MISS);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, BLOCK_BYTES, misaligned(&count)), invalid);
    CHECK_STATUS(kvstore_remove(space, &prefix, 9, &count), invalid);

    // A commit ends its handle even when its out parameter is refused; what was reserved is free again.
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, places, 8, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_commit(reservation, misaligned(&count)), invalid);
    CHECK_STATUS(kvstore_commit(reservation, &count), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, places, 8, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_abandon(reservation), KVSTORE_OK);
}

void check_negative(const char *directory) {
    refuse_options(directory);
    refuse_connections(directory);
    kvstore_options options = small_options(NULL);
    kvstore_store store;
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    refuse_identities(store);
    kvstore_identity identity = small_identity("negative");
    kvstore_namespace space;
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &space, NULL), KVSTORE_OK);
    refuse_prefixes(space);
    refuse_calls(space);
    CHECK_STATUS(kvstore_statistics_json(store, NULL, 8, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_statistics_json(store, NULL, SIZE_MAX, NULL), KVSTORE_INVALID_ARGUMENT);
    // A namespace's handle lives on without its store, and is closed once.
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_INVALID_HANDLE);
    for (kvstore_status status = -40; status < 40; status++) CHECK(strlen(kvstore_status_name(status)) > 5);
}
