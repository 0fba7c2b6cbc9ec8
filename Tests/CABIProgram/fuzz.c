// Random calls with good, closed, made-up and foreign handles and good, null, misaligned and huge arguments, from
// several threads. Nothing may trap or hang, and every answer must be a status of the header. Pointers that are neither
// null nor misaligned are good for what is said, as the header asks.
#include "check.h"

#include <pthread.h>
#include <stdatomic.h>

enum { POOL = 256, SCRATCH_BYTES = 4 << 20 };

static _Atomic(uint64_t) pool[POOL];
static atomic_int open_stores;
static const char *disk_directory;
static atomic_long outcomes[32];

typedef struct {
    uint64_t state;
    uint64_t calls;
    unsigned char *scratch;
} worker;

static uint64_t random_bits(worker *worker) {
    uint64_t z = worker->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t below(worker *worker, uint64_t limit) { return random_bits(worker) % limit; }

// Of 40: 37 the pointer, one null, one misaligned by a byte, one by four.
static void *pointer(worker *worker, void *good) {
    switch (below(worker, 40)) {
        case 0: return NULL;
        case 1: return (char *)good + 1;
        case 2: return (char *)good + 4;
        default: return good;
    }
}

static size_t number(worker *worker, size_t good) {
    static const size_t odd[] = {0, 1, SIZE_MAX, SIZE_MAX - 1, (size_t)1 << 63, ((size_t)1 << 63) - 1, (size_t)1 << 62,
        (size_t)1 << 56, (size_t)1 << 40};
    return below(worker, 20) ? good : odd[below(worker, sizeof odd / sizeof odd[0])];
}

static uint64_t any_handle(worker *worker) {
    switch (below(worker, 12)) {
        case 0: return random_bits(worker);
        case 1: return atomic_load(&pool[below(worker, POOL)]) ^ (uint64_t)1 << below(worker, 64);
        case 2: return 0;
        default: return atomic_load(&pool[below(worker, POOL)]);
    }
}

// Tries for a handle of a kind, so that calls get past the first check often enough.
static uint64_t handle_of(worker *worker, uint64_t kind) {
    for (int attempt = 0; attempt < 40; attempt++) {
        uint64_t handle = any_handle(worker);
        if (handle >> 60 == kind) return handle;
    }
    return any_handle(worker);
}

static void keep(worker *worker, uint64_t handle) {
    uint64_t former = atomic_exchange(&pool[below(worker, POOL)], handle);
    // What falls out of the pool would be lost.
    if (former >> 60 == 3) kvstore_release(former);
    if (former >> 60 == 4) kvstore_abandon(former);
    if (former >> 60 == 2) kvstore_namespace_close(former);
    if (former >> 60 == 1 && kvstore_close(former) == KVSTORE_OK) atomic_fetch_sub(&open_stores, 1);
}

static kvstore_prefix any_prefix(worker *worker, uint32_t *tokens, kvstore_block_extra *extra) {
    fill_tokens((uint32_t)below(worker, 12), tokens);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(pointer(worker, tokens), number(worker, PROMPT_TOKENS - 1));
    if (below(worker, 4) == 0) {
        prefix = kvstore_prefix_of_keys(pointer(worker, tokens), number(worker, below(worker, 4)),
            (uint32_t)number(worker, 32));
    }
    if (below(worker, 8) == 0) {
        *extra = (kvstore_block_extra){.block = number(worker, below(worker, 9)), .bytes = pointer(worker, tokens),
            .byte_count = number(worker, 16)};
        prefix.extras = pointer(worker, extra);
        prefix.extra_count = number(worker, 1);
    }
    if (below(worker, 64) == 0) prefix.struct_size = (uint32_t)random_bits(worker);
    // A number of bytes that is allowed but is not there would be the program's mistake, not an argument to refuse.
    if (prefix.extra_count > 1 && prefix.extra_count <= KVSTORE_MAX_BLOCKS) prefix.extra_count = 1;
    return prefix;
}

static void open_something(worker *worker) {
    uint64_t handle = 0;
    if (atomic_load(&open_stores) < 4 && below(worker, 50) == 0) {
        kvstore_options options = small_options(NULL);
        // One of the stores gets the disk; the others run on memory, because it is locked.
        if (below(worker, 2)) options = small_options(disk_directory);
        options.memory_bytes = 16 << 20;
        if (below(worker, 3) == 0) options.flags = (uint32_t)number(worker, KVSTORE_NO_SCRUB);
        if (kvstore_open(pointer(worker, &options), pointer(worker, &handle)) == KVSTORE_OK) {
            atomic_fetch_add(&open_stores, 1);
            keep(worker, handle);
        }
        return;
    }
    if (atomic_load(&open_stores) < 4 && below(worker, 50) == 0) {
        kvstore_connect_options options = {.struct_size = sizeof options, .socket_path = "/nowhere/kvstore.sock",
            .timeout_milliseconds = 5, .slow_timeout_milliseconds = 5};
        if (kvstore_connect(pointer(worker, &options), pointer(worker, &handle)) == KVSTORE_OK) {
            atomic_fetch_add(&open_stores, 1);
            keep(worker, handle);
        }
        return;
    }
    char model[2] = {(char)('a' + below(worker, 3)), 0};
    kvstore_identity identity = small_identity(model);
    if (below(worker, 8) == 0) identity.tokens_per_block = (uint32_t)number(worker, 4);
    if (below(worker, 8) == 0) identity.opaque_block_bytes = number(worker, BLOCK_BYTES);
    if (below(worker, 16) == 0) identity.element_type = (uint32_t)random_bits(worker);
    kvstore_namespace_info info = {.struct_size = (uint32_t)number(worker, sizeof info)};
    uint64_t store = handle_of(worker, 1);
    if (kvstore_namespace_open(store, pointer(worker, &identity), pointer(worker, &handle), pointer(worker, &info))
        == KVSTORE_OK) keep(worker, handle);
}

static kvstore_status call_in_place(worker *worker) {
    uint32_t tokens[PROMPT_TOKENS + 64];
    kvstore_block_extra extra[2];
    kvstore_prefix prefix = any_prefix(worker, tokens, extra);
    uint64_t out[2] = {0, 0};
    size_t count[2] = {0, 0};
    void *blocks[PROMPT_TOKENS + 2];
    uint32_t numbers[PROMPT_TOKENS + 4];
    uint8_t tiers[PROMPT_TOKENS + 8];
    size_t capacity = number(worker, below(worker, PROMPT_TOKENS));
    kvstore_status status;
    switch (below(worker, 8)) {
        case 0:
        case 1:
            status = kvstore_acquire(handle_of(worker, 2), pointer(worker, &prefix), (uint32_t)below(worker, 3),
                pointer(worker, out), pointer(worker, blocks), capacity, pointer(worker, count));
            if (status == KVSTORE_OK) keep(worker, out[0] ? out[0] : out[1]);
            return status;
        case 2: {
            size_t first = number(worker, below(worker, 9));
            return kvstore_lease_blocks(handle_of(worker, 3), first, capacity, pointer(worker, blocks),
                pointer(worker, tiers));
        }
        case 3: return kvstore_lease_is_current(handle_of(worker, 3));
        case 4: return kvstore_release(handle_of(worker, 3));
        case 5:
            status = kvstore_reserve(handle_of(worker, 2), pointer(worker, &prefix), pointer(worker, out),
                pointer(worker, numbers), pointer(worker, blocks), capacity, pointer(worker, count));
            if (status == KVSTORE_OK) keep(worker, out[0] ? out[0] : out[1]);
            return status;
        case 6:
            return kvstore_reservation_blocks(handle_of(worker, 4), number(worker, below(worker, 9)), capacity,
                pointer(worker, numbers), pointer(worker, blocks));
        default:
            if (below(worker, 2)) return kvstore_commit(handle_of(worker, 4), pointer(worker, count));
            return kvstore_abandon(handle_of(worker, 4));
    }
}

static kvstore_status call_by_copy(worker *worker) {
    uint32_t tokens[PROMPT_TOKENS + 64];
    kvstore_block_extra extra[2];
    kvstore_prefix prefix = any_prefix(worker, tokens, extra);
    kvstore_match match[2] = {{.struct_size = (uint32_t)number(worker, sizeof match[0])}};
    size_t count[2];
    size_t first = number(worker, below(worker, 4));
    size_t bytes = number(worker, below(worker, 8) * BLOCK_BYTES);
    uint64_t space = handle_of(worker, 2);
    // What is put must be there; what is got is never more than the prefix has.
    size_t there = bytes <= SCRATCH_BYTES - 8 || bytes > (size_t)KVSTORE_MAX_BLOCKS << 30 ? bytes : 0;
    switch (below(worker, 8)) {
        case 0: return kvstore_lookup(space, pointer(worker, &prefix), pointer(worker, match));
        case 1: return kvstore_get(space, pointer(worker, &prefix), first, (uint32_t)below(worker, 3),
            pointer(worker, worker->scratch), bytes, pointer(worker, count));
        case 2:
        case 3: return kvstore_put(space, pointer(worker, &prefix), first, pointer(worker, worker->scratch), there,
            pointer(worker, count));
        case 4: return kvstore_prefetch(space, pointer(worker, &prefix));
        case 5: return kvstore_pin(space, pointer(worker, &prefix), (uint32_t)random_bits(worker),
            pointer(worker, count));
        case 6: return kvstore_unpin(space, pointer(worker, &prefix), pointer(worker, count));
        default: return kvstore_remove(space, pointer(worker, &prefix), first, pointer(worker, count));
    }
}

static kvstore_status call_store(worker *worker) {
    uint64_t store = handle_of(worker, 1);
    kvstore_flush_result result[2] = {{.struct_size = (uint32_t)number(worker, sizeof result[0])}};
    size_t needed[2];
    uint64_t time[2];
    kvstore_status status;
    switch (below(worker, 64)) {
        case 0:
        case 1: return kvstore_flush(store, pointer(worker, result));
        case 2:
        case 3: return kvstore_statistics_json(store, pointer(worker, worker->scratch),
            number(worker, SCRATCH_BYTES - 8), pointer(worker, needed));
        case 4: return kvstore_ping(store, pointer(worker, time));
        case 5:
            status = kvstore_close(store);
            if (status == KVSTORE_OK) atomic_fetch_sub(&open_stores, 1);
            return status;
        case 6: return kvstore_namespace_close(handle_of(worker, 2));
        // No handle of the pool: a store that another thread waits for is not closed by a wrong function either.
        case 7: return kvstore_wait_until_warm(store);
        default: return KVSTORE_OK;
    }
}

static void *work(void *argument) {
    worker *self = argument;
    for (uint64_t call = 0; call < self->calls; call++) {
        kvstore_status status = KVSTORE_OK;
        switch (below(self, 16)) {
            case 0: open_something(self); break;
            case 1: status = call_store(self); break;
            case 2: case 3: case 4: case 5: case 6: status = call_by_copy(self); break;
            default: status = call_in_place(self); break;
        }
        CHECK(status >= KVSTORE_INTERNAL && status <= KVSTORE_MISS);
        CHECK(status != KVSTORE_INTERNAL && status != KVSTORE_CORRUPT && status != KVSTORE_FORKED);
        CHECK(status >= 0 || strlen(kvstore_last_error()) > 5);
        atomic_fetch_add(&outcomes[status + 20], 1);
    }
    return NULL;
}

void fuzz(uint64_t seed, uint64_t calls, unsigned threads, const char *directory) {
    disk_directory = directory;
    enum { MOST_THREADS = 16 };
    CHECK(threads >= 1 && threads <= MOST_THREADS);
    static worker workers[MOST_THREADS];
    pthread_t ids[MOST_THREADS];
    for (unsigned index = 0; index < threads; index++) {
        workers[index] = (worker){.state = seed * 1000 + index, .calls = calls / threads,
            .scratch = malloc(SCRATCH_BYTES)};
        CHECK(workers[index].scratch != NULL);
        memset(workers[index].scratch, (int)index, SCRATCH_BYTES);
        CHECK(pthread_create(&ids[index], NULL, work, &workers[index]) == 0);
    }
    for (unsigned index = 0; index < threads; index++) pthread_join(ids[index], NULL);
    printf("%llu calls:", (unsigned long long)calls);
    for (kvstore_status status = -19; status < 12; status++) {
        long count = atomic_load(&outcomes[status + 20]);
        if (count) printf(" %s %ld", kvstore_status_name(status), count);
    }
    printf("\n");
    // Calls that only ever fail would test nothing.
    CHECK(calls < 10000 || atomic_load(&outcomes[KVSTORE_OK + 20]) > (long)(calls / 50));
    worker last = {.state = seed, .calls = 0, .scratch = NULL};
    for (int index = 0; index < POOL; index++) {
        uint64_t handle = atomic_exchange(&pool[index], 0);
        if (handle >> 60 == 3) kvstore_release(handle);
        if (handle >> 60 == 4) kvstore_abandon(handle);
        if (handle >> 60 == 2) kvstore_namespace_close(handle);
        if (handle >> 60 == 1) kvstore_close(handle);
    }
    (void)last;
}
