#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3; Debian 12's headers are older than its kernels may be
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int map_aligned(int fd, size_t byte_count, size_t alignment, void **out_address) {
    size_t reserved = byte_count + alignment;
    uint8_t *base = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return errno;
    uint8_t *aligned = (uint8_t *)(((uintptr_t)base + alignment - 1) & ~(uintptr_t)(alignment - 1));
    void *mapped = mmap(aligned, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (mapped == MAP_FAILED) {
        int error = errno;
        munmap(base, reserved);
        return error;
    }
    if (aligned > base) munmap(base, (size_t)(aligned - base));
    uint8_t *end = aligned + byte_count;
    if (base + reserved > end) munmap(end, (size_t)(base + reserved - end));
    *out_address = mapped;
    return 0;
}

// Allocated now, so that running out of memory is an errno here and never a SIGBUS at a store later.
static int create_memory(const char *name, size_t byte_count, unsigned flags, int *out_fd) {
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_NOEXEC_SEAL | flags);
    if (fd < 0 && errno == EINVAL) fd = memfd_create(name, MFD_CLOEXEC | flags);
    if (fd < 0) return errno;
    int error = ftruncate(fd, (off_t)byte_count) == 0 ? 0 : errno;
    if (error == 0) {
        do error = posix_fallocate(fd, 0, (off_t)byte_count);
        while (error == EINTR);
    }
    if (error != 0) close(fd);
    *out_fd = fd;
    return error;
}

static int create_sealed(
    const char *name, size_t byte_count, size_t alignment, int seals, int *out_fd, void **out_address
) {
    int fd = -1;
    int error = create_memory(name, byte_count, MFD_ALLOW_SEALING, &fd);
    if (error != 0) return error;
    error = map_aligned(fd, byte_count, alignment, out_address);
    if (error != 0) {
        close(fd);
        return error;
    }
    if (fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        error = errno;
        munmap(*out_address, byte_count);
        close(fd);
        return error;
    }
    *out_fd = fd;
    return 0;
}

int CLinux_region_create(const char *name, size_t byte_count, size_t alignment, int *out_fd, void **out_address) {
    return create_sealed(name, byte_count, alignment, F_SEAL_FUTURE_WRITE, out_fd, out_address);
}

int CLinux_staging_create(const char *name, size_t byte_count, int *out_fd, void **out_address) {
    return create_sealed(name, byte_count, 4096, 0, out_fd, out_address);
}

void CLinux_region_destroy(int fd, void *address, size_t byte_count) {
    munmap(address, byte_count);
    close(fd);
}

int CLinux_populate(void *address, size_t byte_count) {
    return madvise(address, byte_count, MADV_POPULATE_WRITE) == 0 ? 0 : errno;
}

int CLinux_ring_create(size_t byte_count, void **out_address) {
    int fd = -1;
    int error = create_memory("kvstore-ring", byte_count, 0, &fd);
    if (error != 0) return error;
    void *base = mmap(NULL, 2 * byte_count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) error = errno;
    for (int half = 0; half < 2 && error == 0; half++) {
        void *address = (uint8_t *)base + half * byte_count;
        if (mmap(address, byte_count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
            error = errno;
            munmap(base, 2 * byte_count);
        }
    }
    close(fd);
    if (error == 0) *out_address = base;
    return error;
}

void CLinux_ring_destroy(void *address, size_t byte_count) { munmap(address, 2 * byte_count); }

void *CLinux_reserve(size_t byte_count) {
    void *base = mmap(NULL, byte_count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

int CLinux_commit(void *address, size_t byte_count) {
    return mprotect(address, byte_count, PROT_READ | PROT_WRITE) == 0 ? 0 : errno;
}

void CLinux_unreserve(void *address, size_t byte_count) { munmap(address, byte_count); }

int CLinux_name_thread(unsigned long thread, const char *name) { return pthread_setname_np((pthread_t)thread, name); }

static _Atomic int *process_page;

static void make_process_page(void) {
    void *page = mmap(NULL, sizeof *process_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return;
    if (madvise(page, sizeof *process_page, MADV_WIPEONFORK) == 0) {
        process_page = page;
    } else {
        munmap(page, sizeof *process_page);
    }
}

int CLinux_process_id(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_process_page);
    if (process_page == NULL) return getpid();
    int process = atomic_load_explicit(process_page, memory_order_relaxed);
    if (process != 0) return process;
    process = getpid();
    atomic_store_explicit(process_page, process, memory_order_relaxed);
    return process;
}
