/*
 * Loads the library as an engine would and checks that the process's signal handlers stay what they were: all 64
 * dispositions are compared after the load, after every step of a use, and after the end. Ends with 0 when they did.
 *
 *     cc dispositions.c -ldl -o dispositions && ./dispositions DIR/lib/libkvstore_c.so DIRECTORY
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <kvstore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct sigaction before[65];

static void handler(int number) { (void)number; }

/* By members: of a mask only the first 64 bits are the kernel's, the rest is whatever lay on the stack. */
static int masks_differ(const sigset_t *left, const sigset_t *right) {
    for (int number = 1; number <= 64; number++) {
        if (sigismember(left, number) != sigismember(right, number)) return 1;
    }
    return 0;
}

static int compare(const char *when) {
    int changed = 0;
    for (int number = 1; number <= 64; number++) {
        struct sigaction now;
        memset(&now, 0, sizeof now);
        if (sigaction(number, NULL, &now) != 0) continue;
        if (now.sa_handler != before[number].sa_handler || now.sa_flags != before[number].sa_flags
            || masks_differ(&now.sa_mask, &before[number].sa_mask)) {
            fprintf(stderr, "%s: the handler of signal %d (%s) was changed\n", when, number, strsignal(number));
            changed++;
        }
    }
    sigset_t blocked;
    sigemptyset(&blocked);
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    for (int number = 1; number <= 64; number++) {
        if (sigismember(&blocked, number) == 1) {
            fprintf(stderr, "%s: signal %d is blocked\n", when, number);
            changed++;
        }
    }
    return changed;
}

#define FIND(name) __typeof__(name) *name##_ = (__typeof__(name) *)dlsym(library, #name)
#define STEP(expression) \
    do { \
        kvstore_status status_ = (expression); \
        if (status_ != KVSTORE_OK) { \
            fprintf(stderr, "%s gave %d: %s\n", #expression, status_, kvstore_last_error_()); \
            return 1; \
        } \
        changed += compare(#expression); \
    } while (0)

int main(int count, char **arguments) {
    if (count != 3) return 64;
    /* One of each kind: a handler of the host's, an ignored signal, the default for the rest. */
    signal(SIGUSR1, handler);
    signal(SIGPIPE, SIG_IGN);
    for (int number = 1; number <= 64; number++) {
        memset(&before[number], 0, sizeof before[number]);
        sigaction(number, NULL, &before[number]);
    }
    int changed = compare("before");
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    changed += compare("dlopen");
    FIND(kvstore_open);
    FIND(kvstore_connect);
    FIND(kvstore_namespace_open);
    FIND(kvstore_namespace_close);
    FIND(kvstore_put);
    FIND(kvstore_get);
    FIND(kvstore_flush);
    FIND(kvstore_close);
    FIND(kvstore_last_error);
    if (!kvstore_open_ || !kvstore_connect_ || !kvstore_namespace_open_ || !kvstore_namespace_close_ || !kvstore_put_
        || !kvstore_get_ || !kvstore_flush_ || !kvstore_close_ || !kvstore_last_error_) {
        fprintf(stderr, "a function is missing\n");
        return 1;
    }

    kvstore_options options = {.struct_size = sizeof options, .memory_bytes = 32 << 20, .disk_path = arguments[2],
        .disk_bytes = 64 << 20, .flags = KVSTORE_WAIT_UNTIL_WARM};
    kvstore_identity identity = {.struct_size = sizeof identity, .model = "signals", .element_type = KVSTORE_OPAQUE,
        .opaque_block_bytes = 4096, .tokens_per_block = 1};
    uint32_t tokens[4] = {1, 2, 3, 4};
    static unsigned char bytes[4 * 4096], back[4 * 4096];
    memset(bytes, 7, sizeof bytes);
    kvstore_prefix prefix = kvstore_prefix_of_tokens(tokens, 4);
    kvstore_store store, remote;
    kvstore_namespace space, nothing;
    size_t blocks;
    STEP(kvstore_open_(&options, &store));
    STEP(kvstore_namespace_open_(store, &identity, &space, NULL));
    STEP(kvstore_put_(space, &prefix, 0, bytes, sizeof bytes, &blocks));
    STEP(kvstore_get_(space, &prefix, 0, 0, back, sizeof back, &blocks));
    if (blocks != 4 || memcmp(bytes, back, sizeof bytes) != 0) return 1;
    STEP(kvstore_flush_(store, NULL));
    kvstore_connect_options connection = {.struct_size = sizeof connection, .socket_path = "/nonexistent/kvstore.sock",
        .timeout_milliseconds = 10};
    STEP(kvstore_connect_(&connection, &remote));
    if (kvstore_namespace_open_(remote, &identity, &nothing, NULL) != KVSTORE_UNAVAILABLE) return 1;
    STEP(kvstore_close_(remote));
    STEP(kvstore_namespace_close_(space));
    STEP(kvstore_close_(store));
    dlclose(library);
    changed += compare("dlclose");
    if (changed == 0) puts("no signal handler was changed");
    /* The control: a handler that was changed is noticed. */
    signal(SIGSEGV, handler);
    if (compare("the control, as it should be") != 1) return 1;
    return changed != 0;
}
