// Handles that are no handles, threads and forks.
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

// Calls every function with `handle`; each must answer `expected`.
static void refuse_handle(uint64_t handle, kvstore_status expected) {
    uint32_t tokens[PROMPT_TOKENS], numbers[1];
    fill_tokens(1, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    kvstore_match match = {.struct_size = sizeof match};
    kvstore_identity identity = small_identity("handles");
    const void *blocks[1];
    void *places[1];
    static _Thread_local unsigned char bytes[BLOCK_BYTES];
    uint64_t out = 42;
    size_t count = 42;
    CHECK_STATUS(kvstore_wait_until_warm(handle), expected);
    CHECK_STATUS(kvstore_ping(handle, &out), expected);
    CHECK_STATUS(kvstore_flush(handle, NULL), expected);
    CHECK_STATUS(kvstore_statistics_json(handle, NULL, 0, &count), expected);
    CHECK_STATUS(kvstore_close(handle), expected);
    CHECK_STATUS(kvstore_namespace_open(handle, &identity, &out, NULL), expected);
    CHECK_STATUS(kvstore_namespace_close(handle), expected);
    CHECK_STATUS(kvstore_lookup(handle, &prefix, &match), expected);
    CHECK_STATUS(kvstore_acquire(handle, &prefix, 0, &out, blocks, 1, &count), expected);
    CHECK_STATUS(kvstore_lease_blocks(handle, 0, 1, blocks, NULL), expected);
    CHECK_STATUS(kvstore_lease_is_current(handle), expected);
    CHECK_STATUS(kvstore_release(handle), expected);
    CHECK_STATUS(kvstore_reserve(handle, &prefix, &out, numbers, places, 1, &count), expected);
    CHECK_STATUS(kvstore_reservation_blocks(handle, 0, 1, numbers, places), expected);
    CHECK_STATUS(kvstore_commit(handle, &count), expected);
    CHECK_STATUS(kvstore_abandon(handle), expected);
    CHECK_STATUS(kvstore_get(handle, &prefix, 0, 0, bytes, sizeof bytes, &count), expected);
    CHECK_STATUS(kvstore_put(handle, &prefix, 0, bytes, sizeof bytes, &count), expected);
    CHECK_STATUS(kvstore_prefetch(handle, &prefix), expected);
    CHECK_STATUS(kvstore_pin(handle, &prefix, 1, &count), expected);
    CHECK_STATUS(kvstore_unpin(handle, &prefix, &count), expected);
    CHECK_STATUS(kvstore_remove(handle, &prefix, 0, &count), expected);
    CHECK(out == 42 && count == 42);
}

typedef struct {
    kvstore_store store;
    kvstore_namespace space;
    kvstore_lease lease;
    kvstore_reservation reservation;
} everything;

static everything open_everything(void) {
    everything all;
    kvstore_options options = small_options(NULL);
    kvstore_identity identity = small_identity("handles");
    uint32_t tokens[PROMPT_TOKENS];
    static unsigned char bytes[2 * BLOCK_BYTES];
    fill_tokens(1, tokens);
    fill_block(1, 0, bytes);
    fill_block(1, 1, bytes + BLOCK_BYTES);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    size_t count;
    CHECK_STATUS(kvstore_open(&options, &all.store), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_open(all.store, &identity, &all.space, NULL), KVSTORE_OK);
    CHECK_STATUS(kvstore_put(all.space, &prefix, 0, bytes, sizeof bytes, NULL), KVSTORE_OK);
    CHECK_STATUS(kvstore_acquire(all.space, &prefix, 0, &all.lease, NULL, 0, &count), KVSTORE_OK);
    CHECK_STATUS(kvstore_reserve(all.space, &prefix, &all.reservation, NULL, NULL, 0, &count), KVSTORE_OK);
    return all;
}

static void close_everything(everything all) {
    CHECK_STATUS(kvstore_release(all.lease), KVSTORE_OK);
    CHECK_STATUS(kvstore_abandon(all.reservation), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(all.space), KVSTORE_OK);
    CHECK_STATUS(kvstore_close(all.store), KVSTORE_OK);
}

void check_handles(void) {
    refuse_handle(0, KVSTORE_INVALID_HANDLE);
    refuse_handle(1, KVSTORE_INVALID_HANDLE);
    refuse_handle(UINT64_MAX, KVSTORE_INVALID_HANDLE);
    refuse_handle((uint64_t)(uintptr_t)&check_handles, KVSTORE_INVALID_HANDLE);
    everything all = open_everything();
    // One bit beside a good handle is no handle.
    uint64_t good[4] = {all.store, all.space, all.lease, all.reservation};
    for (int kind = 0; kind < 4; kind++) {
        for (int bit = 0; bit < 64; bit++) {
            uint64_t near = good[kind] ^ (uint64_t)1 << bit;
            int is_good = 0;
            for (int other = 0; other < 4; other++) is_good |= near == good[other];
            if (!is_good) refuse_handle(near, KVSTORE_INVALID_HANDLE);
        }
    }
    // A handle of another kind.
    size_t count;
    CHECK_STATUS(kvstore_close(all.lease), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_release(all.reservation), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_commit(all.lease, &count), KVSTORE_INVALID_HANDLE);
    CHECK_STATUS(kvstore_namespace_close(all.store), KVSTORE_INVALID_HANDLE);
    close_everything(all);
    // After the end; also when the places were given to others meanwhile.
    for (int kind = 0; kind < 4; kind++) refuse_handle(good[kind], KVSTORE_INVALID_HANDLE);
    everything next = open_everything();
    for (int kind = 0; kind < 4; kind++) refuse_handle(good[kind], KVSTORE_INVALID_HANDLE);
    close_everything(next);
}

static atomic_int is_over;

// Keeps the library's locks busy while the other thread forks.
static void *keep_busy(void *argument) {
    kvstore_namespace space = *(kvstore_namespace *)argument;
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(1, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    while (!atomic_load(&is_over)) {
        kvstore_lease lease;
        size_t count;
        CHECK_STATUS(kvstore_acquire(space, &prefix, 0, &lease, NULL, 0, &count), KVSTORE_OK);
        CHECK_STATUS(kvstore_release(lease), KVSTORE_OK);
    }
    return NULL;
}

// What a child sees of its parent's handles, and that it can work with its own.
static everything check_child(everything all) {
    // Whoever hangs is ended by the alarm, which the parent sees.
    alarm(60);
    refuse_handle(all.store, KVSTORE_FORKED);
    refuse_handle(all.lease, KVSTORE_FORKED);
    refuse_handle(all.reservation, KVSTORE_FORKED);
    refuse_handle(0, KVSTORE_INVALID_HANDLE);
    CHECK(strstr(kvstore_last_error(), "is 0") != NULL);
    everything own = open_everything();
    refuse_handle(all.space, KVSTORE_FORKED);
    return own;
}

static void wait_for(pid_t child) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void in_child(everything all, int has_child) {
    everything own = check_child(all);
    if (has_child) {
        pid_t child = fork();
        if (child == 0) {
            close_everything(check_child(own));
            refuse_handle(all.store, KVSTORE_FORKED);
            _exit(0);
        }
        wait_for(child);
    }
    close_everything(own);
    _exit(0);
}

void check_fork(void) {
    everything all = open_everything();
    pthread_t busy[2];
    for (int index = 0; index < 2; index++) CHECK(pthread_create(&busy[index], NULL, keep_busy, &all.space) == 0);
    for (int round = 0; round < 50; round++) {
        pid_t child = fork();
        if (child == 0) in_child(all, round % 10 == 0);
        wait_for(child);
    }
    atomic_store(&is_over, 1);
    for (int index = 0; index < 2; index++) pthread_join(busy[index], NULL);
    close_everything(all);
}

static _Atomic(kvstore_lease) shared_lease;
static _Atomic(kvstore_reservation) shared_reservation;
static atomic_long closed_count;

// Uses and closes handles that other threads use and close at the same time: each is closed by exactly one of them.
static void *use_and_close(void *argument) {
    (void)argument;
    while (!atomic_load(&is_over)) {
        kvstore_lease lease = atomic_load(&shared_lease);
        kvstore_reservation reservation = atomic_load(&shared_reservation);
        const void *blocks[2];
        void *places[1];
        kvstore_status status = kvstore_lease_blocks(lease, 0, 2, blocks, NULL);
        CHECK(status == KVSTORE_OK || status == KVSTORE_INVALID_HANDLE);
        status = kvstore_reservation_blocks(reservation, 0, 1, NULL, places);
        CHECK(status == KVSTORE_OK || status == KVSTORE_INVALID_HANDLE);
        status = kvstore_release(lease);
        CHECK(status == KVSTORE_OK || status == KVSTORE_INVALID_HANDLE);
        if (status == KVSTORE_OK) atomic_fetch_add(&closed_count, 1);
        status = kvstore_abandon(reservation);
        CHECK(status == KVSTORE_OK || status == KVSTORE_INVALID_HANDLE);
        if (status == KVSTORE_INVALID_HANDLE) CHECK(strstr(kvstore_last_error(), "reservation") != NULL);
    }
    return NULL;
}

void check_threads(void) {
    everything all = open_everything();
    CHECK_STATUS(kvstore_abandon(all.reservation), KVSTORE_OK);
    uint32_t tokens[PROMPT_TOKENS];
    fill_tokens(1, tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, PROMPT_TOKENS);
    pthread_t threads[4];
    for (int index = 0; index < 4; index++) CHECK(pthread_create(&threads[index], NULL, use_and_close, NULL) == 0);
    long opened = 0;
    for (int round = 0; round < 20000; round++) {
        uint64_t handle;
        size_t count;
        CHECK_STATUS(kvstore_acquire(all.space, &prefix, 0, &handle, NULL, 0, &count), KVSTORE_OK);
        opened++;
        atomic_store(&shared_lease, handle);
        if (kvstore_reserve(all.space, &prefix, &handle, NULL, NULL, 0, &count) == KVSTORE_OK) {
            atomic_store(&shared_reservation, handle);
        }
        // Wait until somebody has closed the lease.
        while (kvstore_lease_is_current(atomic_load(&shared_lease)) == KVSTORE_OK) {}
    }
    atomic_store(&is_over, 1);
    for (int index = 0; index < 4; index++) pthread_join(threads[index], NULL);
    CHECK(atomic_load(&closed_count) == opened);
    CHECK_STATUS(kvstore_release(all.lease), KVSTORE_OK);
    // The store is closed while its namespace is in use: misses or KVSTORE_CLOSED, nothing else.
    CHECK_STATUS(kvstore_close(all.store), KVSTORE_OK);
    CHECK_STATUS(kvstore_namespace_close(all.space), KVSTORE_OK);
}
