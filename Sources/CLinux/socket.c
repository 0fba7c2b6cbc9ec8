#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef F_GET_SEALS
#define F_GET_SEALS 1034
#endif

int CLinux_connect(const char *path, int timeout_milliseconds) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    // A full backlog is EAGAIN on a Unix socket, not something that poll could wait for.
    int waited = 0;
    while (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN || waited >= timeout_milliseconds) {
            int error = errno == EAGAIN ? ETIMEDOUT : errno;
            close(fd);
            return -error;
        }
        struct timespec pause = {.tv_nsec = 5000000};
        nanosleep(&pause, NULL);
        waited += 5;
    }
    return fd;
}

long CLinux_send(int fd, const void *bytes, size_t byte_count) {
    long sent = send(fd, bytes, byte_count, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

long CLinux_send_descriptors(int fd, const void *bytes, size_t byte_count, const int *descriptors, size_t count) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * CLINUX_DESCRIPTORS_PER_MESSAGE)];
    } control;
    if (count == 0 || count > CLINUX_DESCRIPTORS_PER_MESSAGE) return -EINVAL;
    memset(&control, 0, sizeof control);
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = byte_count};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = CMSG_SPACE(sizeof(int) * count),
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), descriptors, sizeof(int) * count);
    long sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

static uint64_t monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// As recvmsg. Asks again and again before it sleeps: being woken takes longer than a short answer does.
static long receive_message(int fd, struct msghdr *message, uint32_t spin_nanoseconds) {
    uint64_t end = spin_nanoseconds > 0 ? monotonic_nanoseconds() + spin_nanoseconds : 0;
    while (end > 0 && monotonic_nanoseconds() < end) {
        long received = recvmsg(fd, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        if (received >= 0 || (errno != EAGAIN && errno != EINTR)) return received;
        // Whoever is to answer may need this very processor.
        sched_yield();
    }
    return recvmsg(fd, message, MSG_CMSG_CLOEXEC);
}

long CLinux_receive(
    int fd, void *bytes, size_t byte_count, int *descriptors, size_t capacity, size_t *out_count,
    uint32_t spin_nanoseconds
) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * CLINUX_DESCRIPTORS_PER_MESSAGE)];
    } control;
    struct iovec part = {.iov_base = bytes, .iov_len = byte_count};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.space,
        .msg_controllen = sizeof control.space,
    };
    *out_count = 0;
    long received = receive_message(fd, &message, spin_nanoseconds);
    if (received < 0) return -errno;
    int is_truncated = (message.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (*out_count < capacity && !is_truncated) {
                descriptors[(*out_count)++] = descriptor;
            } else {
                close(descriptor);
            }
        }
    }
    return is_truncated ? -EMFILE : received;
}

int CLinux_wait(int fd, int for_writing, int timeout_milliseconds) {
    struct pollfd waiting = {.fd = fd, .events = for_writing ? POLLOUT : POLLIN};
    int ready = poll(&waiting, 1, timeout_milliseconds);
    return ready < 0 ? -errno : ready;
}

int CLinux_block(int fd, int timeout_milliseconds) {
    struct timeval timeout = {
        .tv_sec = timeout_milliseconds / 1000,
        .tv_usec = (timeout_milliseconds % 1000) * 1000,
    };
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || ((flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) != 0)) return errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0) return errno;
    return setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0 ? 0 : errno;
}

int CLinux_map_shared(int fd, size_t byte_count, int writable, int required_seals, void **out_address) {
    struct stat info;
    if (fstat(fd, &info) != 0) return errno;
    // A file that is shorter than announced, or that could be made so, is a SIGBUS for whoever reads its end.
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size < byte_count) return EBADF;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & required_seals) != required_seals) return EPERM;
    void *mapped = mmap(NULL, byte_count, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) return errno;
    *out_address = mapped;
    return 0;
}

int CLinux_seals_shrink_grow(void) { return F_SEAL_SHRINK | F_SEAL_GROW; }

uint64_t CLinux_load_acquire(const void *word) {
    // The fence keeps the reads of the bytes, which come before, from being moved behind this load.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return __atomic_load_n((const uint64_t *)word, __ATOMIC_ACQUIRE);
}

void CLinux_unmap(void *address, size_t byte_count) { munmap(address, byte_count); }

void CLinux_close(int fd) { close(fd); }
