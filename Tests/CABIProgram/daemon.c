// The client of a daemon: with one, and without.
#include "check.h"

#include <time.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void check_absent(kvstore_store store, kvstore_identity *identity) {
    kvstore_namespace space = 42;
    CHECK_STATUS(kvstore_namespace_open(store, identity, &space, NULL), KVSTORE_UNAVAILABLE);
    CHECK(space == 42 && strstr(kvstore_last_error(), "daemon") != NULL);
    CHECK_STATUS(kvstore_ping(store, NULL), KVSTORE_UNAVAILABLE);
    kvstore_flush_result flushed = {.struct_size = sizeof flushed};
    CHECK_STATUS(kvstore_flush(store, &flushed), KVSTORE_MISS);
    char text[65536];
    CHECK_STATUS(kvstore_statistics_json(store, text, sizeof text, NULL), KVSTORE_OK);
}

static void check_present(kvstore_store store, kvstore_identity *identity) {
    uint64_t nanoseconds = 0;
    CHECK_STATUS(kvstore_ping(store, &nanoseconds), KVSTORE_OK);
    CHECK(nanoseconds > 0);
    kvstore_namespace space;
    CHECK_STATUS(kvstore_namespace_open(store, identity, &space, NULL), KVSTORE_OK);
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(6, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    static unsigned char bytes[PROMPT_BLOCKS * BLOCK_BYTES];
    for (uint32_t block = 0; block < PROMPT_BLOCKS; block++) fill_block(6, block, bytes + block * BLOCK_BYTES);
    size_t count;
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, sizeof bytes, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    const void *blocks[PROMPT_BLOCKS];
    kvstore_lease lease;
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, PROMPT_BLOCKS, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    for (uint32_t block = 0; block < count; block++) CHECK(is_block(6, block, blocks[block]));
    CHECK_STATUS(kvstore_lease_is_current(lease), KVSTORE_OK);
    CHECK_STATUS(kvstore_release(lease), KVSTORE_OK);
    CHECK_STATUS(kvstore_pin(space, &prefix, 60, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_unpin(space, &prefix, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_remove(space, &prefix, 0, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
}

void check_daemon(const char *socket_path, int expects_daemon) {
    kvstore_connect_options options = {
        .struct_size = sizeof options, .timeout_milliseconds = 500, .slow_timeout_milliseconds = 2000,
        .socket_path = socket_path, .client_name = "C program"};
    kvstore_store store;
    CHECK_STATUS(kvstore_connect(&options, &store), KVSTORE_OK);
    kvstore_identity identity = small_identity("daemon");
    double start = now();
    if (expects_daemon) check_present(store, &identity);
    else check_absent(store, &identity);
    fprintf(stderr, "%.3f s\n", now() - start);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    CHECK_STATUS(kvstore_ping(store, NULL), KVSTORE_INVALID_HANDLE);
}
