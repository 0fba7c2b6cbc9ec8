// What the Swift side of the library needs from C. Not installed.
#ifndef CKVSTORE_PRIVATE_H
#define CKVSTORE_PRIVATE_H

#include <stddef.h>

/// Keeps a sentence for kvstore_last_error of the calling thread; what is over its room is cut off between characters.
__attribute__((visibility("hidden"))) void CKVStore_set_last_error(const char *bytes, size_t count);

#endif
