// The few Linux calls Swift's Glibc module does not show, because they need _GNU_SOURCE, and defining that in a header
// changes the layout of types between modules. So they live in a .c file behind plain functions.
#ifndef CLINUX_H
#define CLINUX_H

#include <stddef.h>
#include <stdint.h>

/// Creates a memfd of `byte_count` bytes, allocates its pages, maps it read-write at an address aligned to
/// `alignment` (a power of two, at least a page) and seals it: nobody can shrink, grow or newly map it writable, and the
/// seals are final. The caller's own mapping stays writable.
/// Returns 0, or the errno of the step that failed (then nothing is left behind).
int CLinux_region_create(const char *name, size_t byte_count, size_t alignment, int *out_fd, void **out_address);

/// Unmaps a region and closes its descriptor.
void CLinux_region_destroy(int fd, void *address, size_t byte_count);

/// Clears and maps all pages now, so that no store to them has to. Returns 0 or an errno: kernels before 5.14 cannot, and do
/// it at first use. The kernel holds the lock over the address space for the length of the call.
int CLinux_populate(void *address, size_t byte_count);

/// Maps the same `byte_count` bytes, whole pages, twice in a row, so that what begins in the first half and runs over its
/// end is in one piece. Allocates their pages. Returns 0 or an errno (then nothing is left behind).
int CLinux_ring_create(size_t byte_count, void **out_address);

/// Unmaps both halves.
void CLinux_ring_destroy(void *address, size_t byte_count);

/// Reserves address space without memory behind it. Returns NULL on failure.
void *CLinux_reserve(size_t byte_count);

/// Makes the first `byte_count` bytes of a reservation usable (zeroed on first touch). Returns 0 or an errno.
int CLinux_commit(void *address, size_t byte_count);

/// Gives a reservation back.
void CLinux_unreserve(void *address, size_t byte_count);

/// As getpid, without a call of the kernel after the first: the number lies in a page that the kernel clears in the child of
/// every fork. (A child of vfork, which may do nothing but exec, gets its parent's.)
int CLinux_process_id(void);

/// Names a thread (at most 15 bytes). Returns 0 or an errno.
int CLinux_name_thread(unsigned long thread, const char *name);

// host.c: what a daemon asks about its clients and its own process. Every int result is 0 or an errno.

/// Who connected: the credentials of the process at the other end when it called connect.
int CLinux_peer_credentials(int fd, int32_t *out_pid, uint32_t *out_uid, uint32_t *out_gid);

/// The supplementary groups of the peer. ERANGE when there are more than `capacity`; `out_count` then says how many.
int CLinux_peer_groups(int fd, uint32_t *groups, size_t capacity, size_t *out_count);

/// A descriptor that becomes readable when the peer's process ends.
int CLinux_peer_pidfd(int fd, int32_t pid, int *out_pidfd);

/// epoll: `token` comes back once, the first time that `fd` is readable.
int CLinux_epoll_create(int *out_fd);
int CLinux_epoll_add(int epoll_fd, int fd, uint64_t token);
int CLinux_epoll_remove(int epoll_fd, int fd);
/// Waits until something that was added is readable.
int CLinux_epoll_wait(int epoll_fd, uint64_t *out_token);

int CLinux_eventfd_create(int *out_fd);
int CLinux_eventfd_signal(int fd);

/// Keeps other processes of the same user from reading this one's memory, and core files from being written.
int CLinux_hide_memory(void);

/// Has malloc use at most `arenas` heaps, and keep no more than 1 MiB of free memory at the end of each. To be called before
/// there is a second thread.
void CLinux_bound_allocator(int arenas);

/// Gives free memory of all heaps back to the system, except for a little. Takes milliseconds.
void CLinux_trim_allocator(void);

/// Raises the soft limit of open files to the hard one; `out_limit` is what holds then.
int CLinux_raise_descriptor_limit(uint64_t *out_limit);

void CLinux_ignore_signal(int number);

/// Gives the pages of a memfd back to the system, even while others map it: they read zeros from then on. Fails for one
/// that is sealed against writing.
int CLinux_discard_pages(int fd, size_t byte_count);

/// A close-on-exec, non-blocking Unix socket.
int CLinux_unix_socket(int is_datagram, int *out_fd);
/// A path of `length` bytes, or an abstract name that starts with '@'. Not zero-terminated.
int CLinux_unix_bind(int fd, const char *path, size_t length);
int CLinux_unix_connect(int fd, const char *path, size_t length);
int CLinux_unix_send_datagram(int fd, const char *path, size_t length, const void *bytes, size_t byte_count);

// MARK: Sockets. Results below 0 are negated errnos.

/// Descriptors in one message; the kernel's own limit is 253.
#define CLINUX_DESCRIPTORS_PER_MESSAGE 64

/// Connects to a Unix stream socket. Returns a non-blocking, close-on-exec descriptor.
int CLinux_connect(const char *path, int timeout_milliseconds);

/// Sends without raising SIGPIPE. Returns the bytes taken.
long CLinux_send(int fd, const void *bytes, size_t byte_count);

/// Sends bytes with 1 to 64 descriptors attached to the first of them. Returns the bytes taken: if fewer than all, the
/// descriptors went along and the rest is to be sent without them.
long CLinux_send_descriptors(int fd, const void *bytes, size_t byte_count, const int *descriptors, size_t count);

/// Receives bytes and the descriptors that came with them (close-on-exec; those beyond `capacity` are closed at once).
/// Returns the bytes received, 0 at the end of the stream. Before it sleeps it asks for up to `spin_nanoseconds`.
long CLinux_receive(
    int fd, void *bytes, size_t byte_count, int *descriptors, size_t capacity, size_t *out_count,
    uint32_t spin_nanoseconds
);

/// Waits until `fd` can be read or written. Returns 1, 0 after the timeout, or a negated errno.
int CLinux_wait(int fd, int for_writing, int timeout_milliseconds);

/// Makes a socket blocking, for at most `timeout_milliseconds` (above 0) in each call, which then fails with EAGAIN.
/// One call in place of two for every answer that is waited for. Returns 0 or an errno.
int CLinux_block(int fd, int timeout_milliseconds);

/// Maps a memfd that somebody sent, after checking that it is as long as announced and can never be shorter.
/// Returns 0 or an errno (EBADF: too short or no file, EPERM: a seal is missing).
int CLinux_map_shared(int fd, size_t byte_count, int writable, int required_seals, void **out_address);

/// F_SEAL_SHRINK | F_SEAL_GROW.
int CLinux_seals_shrink_grow(void);

/// Reads a word that another process may write: after every read that came before it in the program.
uint64_t CLinux_load_acquire(const void *word);

void CLinux_unmap(void *address, size_t byte_count);
void CLinux_close(int fd);

/// A memfd that both sides write: allocated, mapped and sealed against shrinking and growing, not against writing.
/// Returns 0 or the errno of the step that failed.
int CLinux_staging_create(const char *name, size_t byte_count, int *out_fd, void **out_address);

#endif
