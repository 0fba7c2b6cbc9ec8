// What a daemon asks the kernel about its clients and its own process. GNU-only names, so a .c file of its own.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CLinux.h"

#include <errno.h>
#include <stddef.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // Linux 6.5; older kernels answer ENOPROTOOPT
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

int CLinux_peer_credentials(int fd, int32_t *out_pid, uint32_t *out_uid, uint32_t *out_gid) {
    struct ucred credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0) return errno;
    if (length != sizeof credentials) return EINVAL;
    *out_pid = credentials.pid;
    *out_uid = credentials.uid;
    *out_gid = credentials.gid;
    return 0;
}

int CLinux_peer_groups(int fd, uint32_t *groups, size_t capacity, size_t *out_count) {
    _Static_assert(sizeof(gid_t) == sizeof(uint32_t), "groups are handed out as 32-bit numbers");
    socklen_t length = (socklen_t)(capacity * sizeof(gid_t));
    int error = getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &length) != 0 ? errno : 0;
    // With ERANGE the kernel has said how much it would have written.
    *out_count = error == 0 || error == ERANGE ? length / sizeof(gid_t) : 0;
    return error;
}

int CLinux_peer_pidfd(int fd, int32_t pid, int *out_pidfd) {
    int pidfd = -1;
    socklen_t length = sizeof pidfd;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0 || pidfd < 0) {
        // Before Linux 6.5: by number, which another process may have taken over if the peer died in this moment.
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) return errno;
    }
    *out_pidfd = pidfd;
    return 0;
}

int CLinux_epoll_create(int *out_fd) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) return errno;
    *out_fd = fd;
    return 0;
}

int CLinux_epoll_add(int epoll_fd, int fd, uint64_t token) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = token};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : errno;
}

int CLinux_epoll_remove(int epoll_fd, int fd) { return epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL) == 0 ? 0 : errno; }

int CLinux_epoll_wait(int epoll_fd, uint64_t *out_token) {
    struct epoll_event event;
    while (1) {
        int count = epoll_wait(epoll_fd, &event, 1, -1);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return errno;
        if (count == 0) continue;
        *out_token = event.data.u64;
        return 0;
    }
}

int CLinux_eventfd_create(int *out_fd) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return errno;
    *out_fd = fd;
    return 0;
}

int CLinux_eventfd_signal(int fd) { return eventfd_write(fd, 1) == 0 ? 0 : errno; }

int CLinux_hide_memory(void) { return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 ? 0 : errno; }

void CLinux_bound_allocator(int arenas) {
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, arenas);
    // Small and from the start. By itself glibc raises both after it has seen large buffers, and malloc_trim leaves the end
    // of every heap but the first alone: one burst of large buffers would stay for good (seen: 8 MiB beside 67).
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
#else
    (void)arenas;
#endif
}

void CLinux_trim_allocator(void) {
#ifdef __GLIBC__
    malloc_trim(1 << 20);
#endif
}

int CLinux_raise_descriptor_limit(uint64_t *out_limit) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return errno;
    if (limit.rlim_cur < limit.rlim_max) {
        struct rlimit raised = {limit.rlim_max, limit.rlim_max};
        // Refused under a seccomp filter: then what we have must do.
        if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    }
    *out_limit = limit.rlim_cur;
    return 0;
}

void CLinux_ignore_signal(int number) { signal(number, SIG_IGN); }

int CLinux_unix_socket(int is_datagram, int *out_fd) {
    int type = (is_datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int fd = socket(AF_UNIX, type, 0);
    if (fd < 0) return errno;
    *out_fd = fd;
    return 0;
}

static int fill_address(const char *path, size_t length, struct sockaddr_un *address, socklen_t *out_size) {
    if (length == 0) return EINVAL;
    if (length >= sizeof address->sun_path) return ENAMETOOLONG;
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    for (size_t i = 0; i < length; i++) address->sun_path[i] = path[i];
    int is_abstract = path[0] == '@';
    if (is_abstract) address->sun_path[0] = 0;
    // An abstract name ends where it ends; a path is followed by its zero.
    *out_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (is_abstract ? 0 : 1));
    return 0;
}

int CLinux_unix_bind(int fd, const char *path, size_t length) {
    struct sockaddr_un address;
    socklen_t size;
    int error = fill_address(path, length, &address, &size);
    if (error != 0) return error;
    return bind(fd, (struct sockaddr *)&address, size) == 0 ? 0 : errno;
}

int CLinux_unix_connect(int fd, const char *path, size_t length) {
    struct sockaddr_un address;
    socklen_t size;
    int error = fill_address(path, length, &address, &size);
    if (error != 0) return error;
    return connect(fd, (struct sockaddr *)&address, size) == 0 ? 0 : errno;
}

int CLinux_unix_send_datagram(int fd, const char *path, size_t length, const void *bytes, size_t byte_count) {
    struct sockaddr_un address;
    socklen_t size;
    int error = fill_address(path, length, &address, &size);
    if (error != 0) return error;
    ssize_t sent = sendto(fd, bytes, byte_count, MSG_NOSIGNAL, (struct sockaddr *)&address, size);
    return sent < 0 ? errno : 0;
}

int CLinux_discard_pages(int fd, size_t byte_count) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)byte_count) == 0 ? 0 : errno;
}
