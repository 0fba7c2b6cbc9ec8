// The few Linux calls Swift's Glibc module does not show, because they need _GNU_SOURCE, and defining that in a header
// changes the layout of types between modules. So they live in a .c file behind plain functions.
#ifndef CLINUX_H
#define CLINUX_H

#include <stddef.h>

/// Creates a memfd of `byte_count` bytes, allocates its pages, maps it read-write at an address aligned to
/// `alignment` (a power of two, at least a page) and seals it: nobody can shrink, grow or newly map it writable, and the
/// seals are final. The caller's own mapping stays writable.
/// Returns 0, or the errno of the step that failed (then nothing is left behind).
int CLinux_region_create(const char *name, size_t byte_count, size_t alignment, int *out_fd, void **out_address);

/// Unmaps a region and closes its descriptor.
void CLinux_region_destroy(int fd, void *address, size_t byte_count);

/// Reserves address space without memory behind it. Returns NULL on failure.
void *CLinux_reserve(size_t byte_count);

/// Makes the first `byte_count` bytes of a reservation usable (zeroed on first touch). Returns 0 or an errno.
int CLinux_commit(void *address, size_t byte_count);

/// Gives a reservation back.
void CLinux_unreserve(void *address, size_t byte_count);

/// Names a thread (at most 15 bytes). Returns 0 or an errno.
int CLinux_name_thread(unsigned long thread, const char *name);

#endif
