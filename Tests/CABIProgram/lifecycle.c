// A store from open to close, and a second one that finds the first one's blocks on disk.
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void check_figures(kvstore_store store) {
    char text[65536];
    size_t needed = 0;
    CHECK_STATUS(kvstore_statistics_json(store, NULL, 0, &needed), KVSTORE_BUFFER_TOO_SMALL);
    CHECK(needed > 100 && needed < sizeof text);
    CHECK_STATUS(kvstore_statistics_json(store, text, sizeof text, &needed), KVSTORE_OK);
    CHECK(text[0] == '{' && strlen(text) + 1 == needed && strstr(text, "\"memory\"") != NULL);
    CHECK_STATUS(kvstore_statistics_json(store, text, 10, NULL), KVSTORE_BUFFER_TOO_SMALL);
}

static void store_in_place(kvstore_namespace space, uint32_t number) {
    uint32_t tokens[PROMPT_TOKENS], numbers[PROMPT_BLOCKS];
    void *blocks[PROMPT_BLOCKS];
    kvstore_reservation reservation;
    size_t count;
    fill_tokens(number, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);

    // At most `capacity` places; nothing is seen before the commit; abandoned ones leave nothing.
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, blocks, 3, &count), KVSTORE_OK);
    CHECK(count == 3 && numbers[0] == 0 && numbers[2] == 2);
    kvstore_match match = {.struct_size = sizeof match};
    CHECK_STATUS(kvstore_lookup(space, &prefix, &match), KVSTORE_MISS);
    CHECK(match.block_count == 0 && match.prefix_block_count == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_abandon(reservation), KVSTORE_OK);
    CHECK_STATUS(kvstore_abandon(reservation), KVSTORE_INVALID_HANDLE);

    // The whole prefix in one call, and again through kvstore_reservation_blocks.
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, NULL, NULL, 0, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_reservation_blocks(reservation, 0, count, numbers, blocks), KVSTORE_OK);
    CHECK_STATUS(kvstore_reservation_blocks(reservation, 1, count, numbers, blocks), KVSTORE_INVALID_ARGUMENT);
    for (size_t index = 0; index < count; index++) fill_block(number, numbers[index], blocks[index]);
    size_t visible = 0;
    CHECK_STATUS(kvstore_commit(reservation, &visible), KVSTORE_OK);
    CHECK(visible == PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_commit(reservation, &visible), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_reserve(space, &prefix, &reservation, numbers, blocks, PROMPT_BLOCKS, &count), KVSTORE_MISS);
    CHECK(reservation == 0 && count == 0);
}

static void read_in_place(kvstore_namespace space, uint32_t number, uint64_t on_disk) {
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(number, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    kvstore_match match = {.struct_size = sizeof match};
    CHECK_STATUS(kvstore_lookup(space, &prefix, &match), KVSTORE_OK);
    CHECK(match.block_count == PROMPT_BLOCKS && match.disk_block_count == on_disk);

    const void *blocks[PROMPT_BLOCKS];
    uint8_t tiers[PROMPT_BLOCKS];
    kvstore_lease lease;
    size_t count;
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, PROMPT_BLOCKS, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS);
    for (uint32_t block = 0; block < count; block++) CHECK(is_block(number, block, blocks[block]));
    // The control: the comparison notices blocks that changed places.
    CHECK(!is_block(number, 0, blocks[1]));
    CHECK_STATUS(kvstore_lease_is_current(lease), KVSTORE_OK);

    const void *again[PROMPT_BLOCKS];
    CHECK_STATUS(kvstore_lease_blocks(lease, 2, count - 2, again, tiers), KVSTORE_OK);
    CHECK(again[0] == blocks[2] && again[count - 3] == blocks[count - 1]);
    CHECK(tiers[0] == (on_disk ? KVSTORE_DISK : KVSTORE_MEMORY));
    CHECK_STATUS(kvstore_lease_blocks(lease, 0, count + 1, again, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_lease_blocks(lease, SIZE_MAX, 2, again, NULL), KVSTORE_INVALID_ARGUMENT);
    CHECK_STATUS(kvstore_release(lease), KVSTORE_OK);
    CHECK_STATUS(kvstore_release(lease), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_lease_is_current(lease), KVSTORE_INVALID_HANDLE);

    // A shorter array: a lease on as many blocks.
    CHECK_STATUS(kvstore_acquire(space, &prefix, KVSTORE_MEMORY_ONLY, &lease, blocks, 3, &count), KVSTORE_OK);
    CHECK(count == 3 && is_block(number, 2, blocks[2]));
    CHECK_STATUS(kvstore_release(lease), KVSTORE_OK);
}

static void copy(kvstore_namespace space, uint32_t number) {
    static unsigned char bytes[PROMPT_BLOCKS * BLOCK_BYTES], back[PROMPT_BLOCKS * BLOCK_BYTES];
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(number, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    for (uint32_t block = 0; block < PROMPT_BLOCKS; block++) fill_block(number, block, bytes + block * BLOCK_BYTES);
    size_t count = 77;
    // Blocks 3 and 4 alone cannot be kept.
    CHECK_STATUS(kvstore_put(space, &prefix, 3, bytes + 3 * BLOCK_BYTES, 2 * BLOCK_BYTES, &count), KVSTORE_MISS);
    CHECK(count == 0);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, 3 * BLOCK_BYTES, &count), KVSTORE_OK);
    CHECK(count == 3);
    CHECK_STATUS(kvstore_put(space, &prefix, 3, bytes + 3 * BLOCK_BYTES, 5 * BLOCK_BYTES, &count), KVSTORE_OK);
    CHECK(count == 5);
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, sizeof bytes, NULL), KVSTORE_MISS);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, back, sizeof back, &count), KVSTORE_OK);
    CHECK(count == PROMPT_BLOCKS && memcmp(bytes, back, sizeof bytes) == 0);
    CHECK_STATUS(kvstore_get(space, &prefix, 6, 0, back, sizeof back, &count), KVSTORE_OK);
    CHECK(count == 2 && memcmp(bytes + 6 * BLOCK_BYTES, back, 2 * BLOCK_BYTES) == 0);
    CHECK_STATUS(kvstore_get(space, &prefix, PROMPT_BLOCKS, 0, back, sizeof back, &count), KVSTORE_MISS);
    CHECK(count == 0);
    CHECK_STATUS(kvstore_remove(space, &prefix, 5, &count), KVSTORE_OK);
    CHECK(count == 3);
    CHECK_STATUS(kvstore_remove(space, &prefix, 5, &count), KVSTORE_MISS);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, back, sizeof back, &count), KVSTORE_OK);
    CHECK(count == 5);
}

void check_lifecycle(const char *directory) {
    CHECK(kvstore_abi_version() == KVSTORE_ABI_VERSION && strlen(kvstore_version()) > 2);
    kvstore_options options = small_options(directory);
    kvstore_store store;
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    CHECK_STATUS(kvstore_wait_until_warm(store), KVSTORE_OK);
    kvstore_identity identity = small_identity("lifecycle");
    kvstore_namespace space, other;
    kvstore_namespace_info info = {.struct_size = sizeof info};
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &space, &info), KVSTORE_OK);
    CHECK(info.block_bytes == BLOCK_BYTES && info.tokens_per_block == TOKENS_PER_BLOCK);
    identity.adapter = "another";
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &other, NULL), KVSTORE_OK);

    store_in_place(space, 1);
    read_in_place(space, 1, 0);
    copy(space, 2);
    check_figures(store);
    // Another identity has other keys.
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(1, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    kvstore_match match = {.struct_size = sizeof match};
    CHECK_STATUS(kvstore_lookup(other, &prefix, &match), KVSTORE_MISS);

    size_t pinned;
    CHECK_STATUS(kvstore_pin(space, &prefix, 10, &pinned), KVSTORE_UNSUPPORTED);
    CHECK_STATUS(kvstore_prefetch(space, &prefix), KVSTORE_OK);
    uint64_t nanoseconds = 1;
    CHECK_STATUS(kvstore_ping(store, &nanoseconds), KVSTORE_OK);
    CHECK(nanoseconds == 0);
    kvstore_flush_result flushed = {.struct_size = sizeof flushed};
    CHECK_STATUS(kvstore_flush(store, &flushed), KVSTORE_OK);
    CHECK(flushed.durable_blocks == PROMPT_BLOCKS + 5 && flushed.refused_blocks == 0);

    // A second store cannot have the directory meanwhile; it runs on memory and says so.
    kvstore_store second;
    CHECK_STATUS(kvstore_open(&options, &second), KVSTORE_OK);
    CHECK_STATUS(kvstore_wait_until_warm(second), KVSTORE_IO);
    CHECK(strlen(kvstore_last_error()) > 10);
    CHECK_STATUS(kvstore_close(second), KVSTORE_OK);

    // A lease outlives the store.
    const void *blocks[PROMPT_BLOCKS];
    kvstore_lease lease;
    size_t count;
    CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, blocks, PROMPT_BLOCKS, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(store), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_lookup(space, &prefix, &match), KVSTORE_CLOSED);
    CHECK(is_block(1, 7, blocks[7]));
    CHECK_STATUS(kvstore_release(lease), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(other), KVSTORE_OK);

    options.flags = KVSTORE_WAIT_UNTIL_WARM | KVSTORE_NO_WARM_UP;
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    identity.adapter = NULL;
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &space, NULL), KVSTORE_OK);
    read_in_place(space, 1, PROMPT_BLOCKS);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
}

void check_keys(void) {
    kvstore_options options = small_options(NULL);
    kvstore_store store;
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    kvstore_identity identity = small_identity("keys");
    identity.layers = identity.key_heads = identity.key_head_dimension = 0;
    identity.element_type = KVSTORE_OPAQUE;
    identity.opaque_block_bytes = BLOCK_BYTES;
    kvstore_namespace space;
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &space, NULL), KVSTORE_OK);

    unsigned char keys[4][32];
    static unsigned char bytes[4 * BLOCK_BYTES], back[4 * BLOCK_BYTES];
    for (uint32_t block = 0; block < 4; block++) {
        memset(keys[block], (int)block + 1, sizeof keys[block]);
        fill_block(9, block, bytes + block * BLOCK_BYTES);
    }
    kvstore_prefix prefix = kvstore_prefix_of_keys(keys, 4, 32);
    size_t count;
    CHECK_STATUS(kvstore_put(space, &prefix, 0, bytes, sizeof bytes, &count), KVSTORE_OK);
    CHECK(count == 4);
    CHECK_STATUS(kvstore_get(space, &prefix, 0, 0, back, sizeof back, &count), KVSTORE_OK);
    CHECK(count == 4 && memcmp(bytes, back, sizeof bytes) == 0);

    // Keys of several lengths; (1, 31) of the same bytes are other keys than (32).
    uint32_t sizes[2] = {1, 31};
    kvstore_prefix uneven = kvstore_prefix_of_keys(keys, 2, 0);
    uneven.key_sizes = sizes;
    kvstore_match match = {.struct_size = sizeof match};
    CHECK_STATUS(kvstore_lookup(space, &uneven, &match), KVSTORE_MISS);
    CHECK_STATUS(kvstore_put(space, &uneven, 0, bytes, 2 * BLOCK_BYTES, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_lookup(space, &uneven, &match), KVSTORE_OK);
    CHECK(match.block_count == 2);

    // Extra bytes make another block of the same tokens, and others of all after it.
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(5, tokens);
    kvstore_prefix plain = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS), image = plain;
    kvstore_block_extra extra = {.block = 2, .bytes = "digest", .byte_count = 6};
    image.extras = &extra;
    image.extra_count = 1;
    CHECK_STATUS(kvstore_put(space, &plain, 0, bytes, 4 * BLOCK_BYTES, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_lookup(space, &image, &match), KVSTORE_OK);
    CHECK(match.block_count == 2);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
}

// A child of a process that has a disk open: its own store with a disk works on memory, says why, and closes.
static void use_disk_in_child(const char *directory) {
    // Whoever hangs is ended by the alarm, which the parent sees.
    alarm(60);
    char path[4096], text[256];
    snprintf(path, sizeof path, "%s/child", directory);
    kvstore_options options = small_options(path);
    kvstore_store store;
    kvstore_namespace space;
    kvstore_identity identity = small_identity("child");
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    CHECK_STATUS(kvstore_wait_until_warm(store), KVSTORE_IO);
    snprintf(text, sizeof text, "%s", kvstore_last_error());
    CHECK(strstr(text, "forked") != NULL);
    CHECK_STATUS(kvstore_namespace_open(store, &identity, &space, NULL), KVSTORE_OK);
    store_in_place(space, 1);
    read_in_place(space, 1, 0);
    CHECK_STATUS(kvstore_flush(store, NULL), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(space), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
    _exit(0);
}

void check_fork_with_disk(const char *directory) {
    char path[4096];
    snprintf(path, sizeof path, "%s/parent", directory);
    kvstore_options options = small_options(path);
    kvstore_store store;
    CHECK_STATUS(kvstore_open(&options, &store), KVSTORE_OK);
    CHECK_STATUS(kvstore_wait_until_warm(store), KVSTORE_OK);
    pid_t child = fork();
    if (child == 0) use_disk_in_child(directory);
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_STATUS(kvstore_close(store), KVSTORE_OK);
}
