// The functions that return text. A thread's last error is here because C has thread-local memory that needs no
// destructor, so a thread may end after the library's store was closed, or without the library knowing.
#include "CKVStorePrivate.h"
#include "kvstore.h"

#include <string.h>

static _Thread_local char last_error[2048];

const char *kvstore_last_error(void) { return last_error; }

void CKVStore_set_last_error(const char *bytes, size_t count) {
    if (count > sizeof last_error - 1) {
        count = sizeof last_error - 1;
        // Not in the middle of a character of several bytes.
        while (count > 0 && ((unsigned char)bytes[count] & 0xC0) == 0x80) count--;
    }
    memcpy(last_error, bytes, count);
    last_error[count] = 0;
}

const char *kvstore_version(void) { return "0.4.0"; }

uint32_t kvstore_abi_version(void) { return KVSTORE_ABI_VERSION; }

#define NAME(status) case status: return #status

const char *kvstore_status_name(kvstore_status status) {
    switch (status) {
        NAME(KVSTORE_OK);
        NAME(KVSTORE_MISS);
        NAME(KVSTORE_INVALID_ARGUMENT);
        NAME(KVSTORE_INVALID_HANDLE);
        NAME(KVSTORE_FORKED);
        NAME(KVSTORE_CLOSED);
        NAME(KVSTORE_OUT_OF_MEMORY);
        NAME(KVSTORE_PERMISSION_DENIED);
        NAME(KVSTORE_LOCKED);
        NAME(KVSTORE_FOREIGN_DIRECTORY);
        NAME(KVSTORE_FUTURE_FORMAT);
        NAME(KVSTORE_DISK_FULL);
        NAME(KVSTORE_CORRUPT);
        NAME(KVSTORE_UNAVAILABLE);
        NAME(KVSTORE_IO);
        NAME(KVSTORE_BUFFER_TOO_SMALL);
        NAME(KVSTORE_TOO_MANY_HANDLES);
        NAME(KVSTORE_UNSUPPORTED);
        NAME(KVSTORE_INTERNAL);
    }
    return "unknown status";
}
