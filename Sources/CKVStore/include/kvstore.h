/*
 * kvstore: a cache of the KV blocks of LLM inference, for engines that are not written in Swift.
 *
 *     kvstore_open | kvstore_connect            a store of this process, or the daemon that a node shares
 *       kvstore_namespace_open                  the complete identity of one model instance
 *         kvstore_lookup                        how many leading blocks of a prompt are stored
 *         kvstore_acquire ... kvstore_release   read them in place, a whole prefix in one call
 *         kvstore_reserve ... kvstore_commit    write the missing ones in place, likewise
 *         kvstore_get, kvstore_put              the same with copies, for those who have the bytes elsewhere
 *
 * Rules that hold for every function:
 *
 * - Threads. Any function may be called from any thread, at any time, also with the same handle. A handle that one
 *   thread closes while another uses it stays usable until the other's call returns.
 * - Handles are numbers, not pointers: 0 is none, and a number is never given out twice. A handle that is 0, made up,
 *   of another kind, or closed already gives KVSTORE_INVALID_HANDLE. Nothing else happens.
 * - Results. A function returns KVSTORE_OK, KVSTORE_MISS (there is nothing, or nothing to do; never an error), or an
 *   error below 0. After an error kvstore_last_error() has a sentence about it, and no out parameter was written.
 *   KVSTORE_INVALID_ARGUMENT is given for a null or misaligned pointer, a number out of range, a struct of a wrong
 *   size or text that is not UTF-8. Pointers that are neither null nor misaligned must be good for what the function
 *   says.
 * - Ownership. Pointers that you pass are read or written during the call only. What the library points to is said at
 *   each function. The library never gives memory that you have to free.
 * - Structs begin with struct_size: set the struct to zero, then struct_size = sizeof it. Zero in any other field means
 *   its default. Later versions only append fields, so a program and a library of different versions fit together.
 * - Fork. A child may open stores of its own. Handles of its parent give it KVSTORE_FORKED, and memory under its
 *   parent's leases may change under its hands. Once a process has had a disk open, a store with a disk in its child
 *   runs on memory and its statistics say why ("diskProblem"): RocksDB's threads do not live on in a child.
 * - Time. With a daemon no round trip waits longer than the timeout, and a call takes one, but for kvstore_put and for
 *   kvstore_reserve of more blocks than its `capacity`, which take one for each part. A daemon that is dead, hung or of
 *   another version is a miss, and is looked for again in later calls. Only kvstore_namespace_open and kvstore_ping say
 *   KVSTORE_UNAVAILABLE.
 * - The library installs no signal handlers, reads no environment and writes to no descriptor of yours. It has threads
 *   of its own while a store is open, and stays mapped after dlclose.
 */
#ifndef KVSTORE_H
#define KVSTORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Raised when a function or field is added; a program that needs one compares kvstore_abi_version() with it. */
#define KVSTORE_ABI_VERSION 1

/** Handles. Distinct names say what a function wants; the library checks it. */
typedef uint64_t kvstore_store;
typedef uint64_t kvstore_namespace;
typedef uint64_t kvstore_lease;
typedef uint64_t kvstore_reservation;

/** Most blocks of one prefix. */
#define KVSTORE_MAX_BLOCKS 65536
/** Most tokens of one prefix. */
#define KVSTORE_MAX_TOKENS 16777216
/** Most bytes of a key that the caller made. */
#define KVSTORE_MAX_KEY_BYTES 255
/** Most bytes of `kvstore_block_extra.bytes`. */
#define KVSTORE_MAX_EXTRA_BYTES 65536

/** What functions return. Values never change; new ones may be added, so treat an unknown one below 0 as an error. */
typedef int32_t kvstore_status;
enum {
    /** Done. */
    KVSTORE_OK = 0,
    /** Nothing is stored, or there is nothing to store, or the daemon cannot be asked. */
    KVSTORE_MISS = 1,
    /** An argument is outside what the function allows. */
    KVSTORE_INVALID_ARGUMENT = -1,
    /** No such handle: 0, made up, of another kind, or closed already. */
    KVSTORE_INVALID_HANDLE = -2,
    /** The handle was made before this process was forked. */
    KVSTORE_FORKED = -3,
    /** The store that the handle belongs to was closed. */
    KVSTORE_CLOSED = -4,
    /** No memory for a region or a table. */
    KVSTORE_OUT_OF_MEMORY = -5,
    /** A directory or socket cannot be used with this process's rights. */
    KVSTORE_PERMISSION_DENIED = -6,
    /** Another process, or another store of this one, holds the directory. */
    KVSTORE_LOCKED = -7,
    /** The directory holds something that kvstore did not write. */
    KVSTORE_FOREIGN_DIRECTORY = -8,
    /** The directory was written by a later version. */
    KVSTORE_FUTURE_FORMAT = -9,
    /** The file system has no room left. */
    KVSTORE_DISK_FULL = -10,
    /** Stored bytes are not what was written. */
    KVSTORE_CORRUPT = -11,
    /** The daemon cannot be reached, or refuses. Try again later. */
    KVSTORE_UNAVAILABLE = -12,
    /** Any other input/output failure. */
    KVSTORE_IO = -13,
    /** The buffer is too short; the out parameter says how long it must be. */
    KVSTORE_BUFFER_TOO_SMALL = -14,
    /** More than a million handles are open. */
    KVSTORE_TOO_MANY_HANDLES = -15,
    /** This kind of store does not do that. */
    KVSTORE_UNSUPPORTED = -16,
    /** A failure without a code of its own. */
    KVSTORE_INTERNAL = -17
};

/** The library's version, such as "0.4.0". Static, never freed. */
const char *kvstore_version(void);

/** KVSTORE_ABI_VERSION of the library that is loaded. */
uint32_t kvstore_abi_version(void);

/** The name of a status, such as "KVSTORE_LOCKED"; "unknown status" for any other number. Static, never freed. */
const char *kvstore_status_name(kvstore_status status);

/**
 * What the last call on this thread that returned an error has to say: one sentence, UTF-8, never null, empty before
 * the first error. Holds no token ids, keys, salts or stored bytes. The memory belongs to the thread: it is good until
 * the next call of this library on the same thread.
 */
const char *kvstore_last_error(void);

/* ---- Stores ------------------------------------------------------------------------------------------------------ */

/** Flags of kvstore_options. */
enum {
    /** Compare the digest of every block that is found in memory: costs a pass over its bytes. */
    KVSTORE_VERIFY_MEMORY_HITS = 1,
    /** Queue every block for the disk as soon as it is committed. */
    KVSTORE_WRITE_THROUGH = 2,
    /** Do not write what is only in memory when the store closes. */
    KVSTORE_NO_FLUSH_ON_CLOSE = 4,
    /** Do not check stored blocks in the background. */
    KVSTORE_NO_SCRUB = 8,
    /** Do not read much used blocks from disk into memory after the start. */
    KVSTORE_NO_WARM_UP = 16,
    /** Return from kvstore_open only when the disk tier's index is loaded (or the disk turned out unusable). */
    KVSTORE_WAIT_UNTIL_WARM = 32
};

/** How a store of this process is opened. */
typedef struct kvstore_options {
    uint32_t struct_size;
    /** KVSTORE_VERIFY_MEMORY_HITS and so on, added up. */
    uint32_t flags;
    /** Hard cap of the memory tier, at least 16 MiB. Default 512 MiB. */
    uint64_t memory_bytes;
    /** Directory of the disk tier, made if missing: empty, or made by kvstore. Null: memory only. */
    const char *disk_path;
    /** Hard cap over the whole directory, at least 32 MiB. Must be given with disk_path. */
    uint64_t disk_bytes;
    /** "automatic" (default), "raw", "lz4", "nib4", "nib4h", "hsplit" or "int8". int8 is lossy. */
    const char *codec;
    /** Blocks in memory are written to disk when they are about this old. Default 5; below 0: only when evicted. */
    double write_back_delay_seconds;
    /** Threads that read the disk, 1 to 64. Default 2. */
    uint32_t reader_threads;
    uint32_t reserved;
} kvstore_options;

/**
 * Opens a store in this process. A disk that cannot be used does not fail the open: the store runs on memory and
 * statistics say why ("diskProblem").
 *
 * @param options null for the defaults: 512 MiB of memory, no disk.
 * @param out_store the handle; end it with kvstore_close.
 * @return KVSTORE_OK, KVSTORE_INVALID_ARGUMENT (the message names every limit that does not hold),
 *         KVSTORE_OUT_OF_MEMORY, KVSTORE_TOO_MANY_HANDLES.
 */
kvstore_status kvstore_open(const kvstore_options *options, kvstore_store *out_store);

/** How a daemon is talked to. */
typedef struct kvstore_connect_options {
    uint32_t struct_size;
    /** Longest wait for an answer about blocks, 1 to 600000. Default 1000. After that the call is a miss. */
    uint32_t timeout_milliseconds;
    /** The same for flush, remove, pin and unpin, which may wait for the disk. Default 30000. */
    uint32_t slow_timeout_milliseconds;
    /** Wait before the first attempt to connect again; doubles up to five seconds. Default 50. */
    uint32_t retry_milliseconds;
    /** The daemon's Unix socket, at most 107 bytes. Must be given. */
    const char *socket_path;
    /** File with the token that the daemon binds the tenant to; blanks and line ends around it are cut off. */
    const char *token_file;
    /** The token itself, at most 1024 bytes; not together with token_file. */
    const void *token;
    size_t token_size;
    /** What the daemon shows the client as, at most 64 bytes. */
    const char *client_name;
} kvstore_connect_options;

/**
 * Makes a client of a daemon. Does not wait for it: the connection is made when first needed, and again when it was
 * lost. Calls of one client go over one connection, one after the other.
 *
 * @param out_store the handle; end it with kvstore_close.
 * @return KVSTORE_OK, KVSTORE_INVALID_ARGUMENT, KVSTORE_PERMISSION_DENIED or KVSTORE_IO (the token file cannot be
 *         read), KVSTORE_TOO_MANY_HANDLES. Never KVSTORE_UNAVAILABLE.
 */
kvstore_status kvstore_connect(const kvstore_connect_options *options, kvstore_store *out_store);

/**
 * Waits until the disk tier's index is loaded. At once with a daemon and without a disk.
 *
 * @return KVSTORE_OK; KVSTORE_IO when the disk cannot be used; KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_wait_until_warm(kvstore_store store);

/**
 * Asks the daemon for a sign of life, over a connection of its own.
 *
 * @param out_nanoseconds how long the answer took; 0 for a store of this process. May be null.
 * @return KVSTORE_OK; KVSTORE_UNAVAILABLE when no answer came before the timeout; KVSTORE_INVALID_HANDLE,
 *        KVSTORE_FORKED.
 */
kvstore_status kvstore_ping(kvstore_store store, uint64_t *out_nanoseconds);

/** What kvstore_flush did. */
typedef struct kvstore_flush_result {
    uint32_t struct_size;
    uint32_t reserved;
    /** Blocks on disk now, such that they survive a kill of this process. */
    uint64_t durable_blocks;
    /** Blocks that are not; kvstore_last_error() says why. */
    uint64_t refused_blocks;
} kvstore_flush_result;

/**
 * Writes everything that is only in memory to disk and waits for it.
 *
 * @param out_result may be null.
 * @return KVSTORE_OK also when blocks were refused; KVSTORE_MISS when the daemon did not answer;
 *         KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_flush(kvstore_store store, kvstore_flush_result *out_result);

/**
 * Every counter and level as one JSON object, NUL-terminated. With a daemon: those of this client's tenant, all zero
 * when it cannot be asked. Figures change between calls, so when you ask again with a longer buffer give it some more.
 *
 * @param buffer `capacity` bytes; may be null when capacity is 0.
 * @param out_needed bytes of the text with its NUL; also written with KVSTORE_BUFFER_TOO_SMALL. May be null.
 * @return KVSTORE_OK, KVSTORE_BUFFER_TOO_SMALL, KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_statistics_json(kvstore_store store, char *buffer, size_t capacity, size_t *out_needed);

/**
 * Closes a store: writes what is only in memory (unless KVSTORE_NO_FLUSH_ON_CLOSE), ends its threads, ends the
 * connection. Leases that are out stay readable until they are released. Handles of its namespaces give KVSTORE_CLOSED
 * from now on and still want to be closed.
 *
 * @return KVSTORE_OK, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_close(kvstore_store store);

/* ---- Namespaces -------------------------------------------------------------------------------------------------- */

/** How one number of a block is stored. */
enum {
    /** Bytes whose meaning only the engine knows. */
    KVSTORE_OPAQUE = 0,
    KVSTORE_BF16 = 1,
    KVSTORE_FP16 = 2,
    KVSTORE_FP8_E4M3 = 3,
    KVSTORE_INT8 = 4,
    KVSTORE_FP32 = 5,
    KVSTORE_FP8_E5M2 = 6
};

/** The type of a kvstore_field. */
enum {
    /** `bytes` is UTF-8 text of byte_count bytes. */
    KVSTORE_FIELD_TEXT = 0,
    /** `integer` is a whole number. */
    KVSTORE_FIELD_INTEGER = 1,
    /** `integer` is 0 or 1. */
    KVSTORE_FIELD_BOOLEAN = 2,
    /** `bytes` is anything, such as a digest. */
    KVSTORE_FIELD_BYTES = 3
};

/** A further field of an identity. The number 1 and the text "1" are different. */
typedef struct kvstore_field {
    /** Not empty, at most 4096 bytes, each name once. */
    const char *name;
    /** KVSTORE_FIELD_TEXT and so on. */
    uint32_t type;
    uint32_t reserved;
    int64_t integer;
    /** At most 4096. */
    const void *bytes;
    size_t byte_count;
} kvstore_field;

/** In value_heads and value_head_dimension: a block has keys only, as with MLA. */
#define KVSTORE_KEYS_ONLY UINT32_MAX

/**
 * Everything that decides whether two blocks of the same tokens are interchangeable. Two engines share blocks when, and
 * only when, all of it is equal. Texts are at most 4096 bytes; null is the same as empty.
 */
typedef struct kvstore_identity {
    uint32_t struct_size;
    /** KVSTORE_BF16 and so on. */
    uint32_t element_type;
    /** The model's name. Must be given. */
    const char *model;
    /** A commit, a tag. */
    const char *revision;
    /** The order of a block's axes, outermost first. Default "LKTHD": layer, K or V, token, head, dimension. */
    const char *layout_tag;
    /** The adapter (LoRA) in use. */
    const char *adapter;
    /** The tenant. A daemon decides it by the connection and does not look at this one. */
    const char *tenant;
    /** The tenant's secret, at most 1024 bytes. A daemon has its own and is not sent this one. */
    const void *salt;
    size_t salt_size;
    /** Shape, each at most 65535. May be 0 when opaque_block_bytes is given. */
    uint32_t layers;
    uint32_t key_heads;
    /** Default: as many as key_heads. KVSTORE_KEYS_ONLY: none. */
    uint32_t value_heads;
    uint32_t key_head_dimension;
    /** Default: as key_head_dimension. KVSTORE_KEYS_ONLY: none. */
    uint32_t value_head_dimension;
    /** 1 to 65535. Must be given. */
    uint32_t tokens_per_block;
    uint32_t tensor_parallel_rank;
    /** Default 1. */
    uint32_t tensor_parallel_size;
    uint32_t pipeline_parallel_rank;
    /** Default 1. */
    uint32_t pipeline_parallel_size;
    /** Bytes of one block whose layout only the engine knows. 0: the shape tells. At most 1 GiB. */
    uint64_t opaque_block_bytes;
    /** 0: blocks come back bit for bit. 1: the disk tier may quantise bf16 and fp16 to 8 bits. */
    uint32_t allows_lossy_int8;
    /** Entries of `fields`, at most 256. */
    uint32_t field_count;
    /** Whatever else changes the numbers: digest of the weights, KV scales, RoPE settings, instruction set. */
    const kvstore_field *fields;
} kvstore_identity;

/** What a namespace is. */
typedef struct kvstore_namespace_info {
    uint32_t struct_size;
    uint32_t tokens_per_block;
    /** Bytes of one block. */
    uint64_t block_bytes;
    /** SHA-256 over the identity (with a daemon: and its tenant's salt). Whoever knows it can make keys. */
    uint8_t fingerprint[32];
} kvstore_namespace_info;

/**
 * Opens a namespace. Opening the same identity again is cheap and gives another handle for it.
 *
 * @param out_info may be null.
 * @return KVSTORE_OK, KVSTORE_INVALID_ARGUMENT (the message names every problem), KVSTORE_UNAVAILABLE (no daemon, or it
 *         refuses: try again later), KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_TOO_MANY_HANDLES.
 */
kvstore_status kvstore_namespace_open(
    kvstore_store store,
    const kvstore_identity *identity,
    kvstore_namespace *out_namespace,
    kvstore_namespace_info *out_info
);

/**
 * Closes a namespace's handle. Its blocks stay, and so do leases and reservations.
 *
 * @return KVSTORE_OK, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_namespace_close(kvstore_namespace name_space);

/* ---- Prefixes ---------------------------------------------------------------------------------------------------- */

/** Further bytes that a block's KV depends on besides its tokens, such as the digest of an image and its offset. */
typedef struct kvstore_block_extra {
    /** The block's number in the prefix; each number once. */
    uint64_t block;
    /** At most KVSTORE_MAX_EXTRA_BYTES. */
    const void *bytes;
    size_t byte_count;
} kvstore_block_extra;

/**
 * A prompt from its beginning, as tokens or as keys that the engine made. Nothing of it is kept after a call.
 *
 * By tokens: the key of a block covers its tokens and everything before it. A last block that is not full has no key.
 * By keys: equal keys must mean equal whole prefixes. Keys are mixed with the namespace, so those of two models never
 * meet.
 */
typedef struct kvstore_prefix {
    uint32_t struct_size;
    /** Bytes of each key, when key_sizes is null. 1 to KVSTORE_MAX_KEY_BYTES. */
    uint32_t key_size;
    /** Either the prompt's token ids, or null. */
    const uint32_t *tokens;
    /** At most KVSTORE_MAX_TOKENS. With keys: tokens of the whole prompt, for statistics; 0: those of full blocks. */
    size_t token_count;
    /** Or the keys, one after the other without gaps. */
    const void *keys;
    /** Bytes of each key, or null when all have key_size. */
    const uint32_t *key_sizes;
    /** At most KVSTORE_MAX_BLOCKS. */
    size_t key_count;
    /** Only with tokens. May be null. */
    const kvstore_block_extra *extras;
    size_t extra_count;
} kvstore_prefix;

/** The prefix of `token_count` tokens. */
static inline kvstore_prefix kvstore_prefix_of_tokens(const uint32_t *tokens, size_t token_count) {
    kvstore_prefix prefix = {(uint32_t)sizeof(kvstore_prefix), 0, NULL, 0, NULL, NULL, 0, NULL, 0};
    prefix.tokens = tokens;
    prefix.token_count = token_count;
    return prefix;
}

/** The prefix of `key_count` keys of `key_size` bytes each. */
static inline kvstore_prefix kvstore_prefix_of_keys(const void *keys, size_t key_count, uint32_t key_size) {
    kvstore_prefix prefix = {(uint32_t)sizeof(kvstore_prefix), 0, NULL, 0, NULL, NULL, 0, NULL, 0};
    prefix.keys = keys;
    prefix.key_count = key_count;
    prefix.key_size = key_size;
    return prefix;
}

/** Where a block was found. */
enum { KVSTORE_MEMORY = 0, KVSTORE_DISK = 1 };

/** What kvstore_lookup found. */
typedef struct kvstore_match {
    uint32_t struct_size;
    /** 1 while the disk tier's index is still being loaded: a miss may become a hit in a moment. */
    uint32_t is_warming;
    /** Leading blocks that are stored. */
    uint64_t block_count;
    /** Of those, how many are on disk only; kvstore_acquire would read them. */
    uint64_t disk_block_count;
    /** Full blocks of the prefix. */
    uint64_t prefix_block_count;
} kvstore_match;

/**
 * How many leading blocks of a prefix are stored. Moves nothing and holds nothing: what is true now may be false a
 * moment later; kvstore_acquire makes it a promise.
 *
 * @return KVSTORE_OK; KVSTORE_MISS when it is none (out_match is written as well); KVSTORE_INVALID_ARGUMENT,
 *         KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_CLOSED.
 */
kvstore_status kvstore_lookup(kvstore_namespace name_space, const kvstore_prefix *prefix, kvstore_match *out_match);

/* ---- Reading in place -------------------------------------------------------------------------------------------- */

/** Flags of kvstore_acquire and kvstore_get. */
enum {
    /** Stop before the first block that is only on disk; the call then never waits for the disk. */
    KVSTORE_MEMORY_ONLY = 1
};

/**
 * Takes a lease on the leading blocks of a prefix that are stored, and tells where all of them are. Blocks on disk are
 * read, verified and put into memory first.
 *
 * While the lease lives none of its blocks is overwritten, moved or unmapped. The memory is read-only for you: with a
 * daemon a write ends the process. Should this process be stopped for longer than the daemon's lease time, blocks may
 * be given to others: ask kvstore_lease_is_current after the bytes were used.
 *
 * @param flags 0 or KVSTORE_MEMORY_ONLY.
 * @param out_lease the handle; end it with kvstore_release, after which `blocks` must not be used.
 * @param blocks room for `capacity` addresses; the first *out_count of them are written, each that of
 *        kvstore_namespace_info .block_bytes bytes, aligned to 4096 for blocks of at least that size. The lease covers
 *        at most `capacity` blocks. May be null when capacity is 0: the lease then covers all, and
 *        kvstore_lease_blocks tells where they are.
 * @param out_count blocks under the lease, never 0 with KVSTORE_OK.
 * @return KVSTORE_OK; KVSTORE_MISS when the first block is not stored (out_lease is then 0, out_count 0);
 *         KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_CLOSED, KVSTORE_TOO_MANY_HANDLES.
 */
kvstore_status kvstore_acquire(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    uint32_t flags,
    kvstore_lease *out_lease,
    const void **blocks,
    size_t capacity,
    size_t *out_count
);

/**
 * Where the blocks of a lease are, from number `first` on.
 *
 * @param blocks room for `count` addresses, or null.
 * @param tiers room for `count` numbers, KVSTORE_MEMORY or KVSTORE_DISK: where each was found. Or null.
 * @return KVSTORE_OK; KVSTORE_INVALID_ARGUMENT when the lease has no blocks first ..< first + count;
 *         KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_lease_blocks(
    kvstore_lease lease,
    size_t first,
    size_t count,
    const void **blocks,
    uint8_t *tiers
);

/**
 * Whether every byte read under the lease up to now was the right one. Always so in a store of this process.
 *
 * @return KVSTORE_OK; KVSTORE_MISS: throw away what was read; KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_lease_is_current(kvstore_lease lease);

/** Ends a lease. @return KVSTORE_OK, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED. */
kvstore_status kvstore_release(kvstore_lease lease);

/* ---- Writing in place -------------------------------------------------------------------------------------------- */

/**
 * Asks for places for the blocks of a prefix that are missing, head first. Nobody sees them before kvstore_commit.
 *
 * Blocks that are stored already, or that somebody else is storing, get no place. When room runs out the reservation
 * ends there: commit, then ask again for the rest. To store fewer blocks than a prompt has, name fewer tokens or keys.
 * After 10 seconds the same blocks may be reserved by somebody else; a late commit then stores nothing, and never
 * harms.
 *
 * @param out_reservation the handle; end it with kvstore_commit or kvstore_abandon, after which `blocks` must not be
 *        used.
 * @param block_numbers room for `capacity` numbers: which block of the prefix each place is for, rising. May be null.
 * @param blocks room for `capacity` addresses of block_bytes bytes to fill. The reservation has at most `capacity`
 *        places; ask again for the rest. With capacity 0 both may be null: then it has as many as there are, and
 *        kvstore_reservation_blocks tells where they are.
 * @param out_count places of the reservation, never 0 with KVSTORE_OK.
 * @return KVSTORE_OK; KVSTORE_MISS when there is nothing to store or no room (out_reservation is then 0, out_count 0);
 *         KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_CLOSED, KVSTORE_TOO_MANY_HANDLES.
 */
kvstore_status kvstore_reserve(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    kvstore_reservation *out_reservation,
    uint32_t *block_numbers,
    void **blocks,
    size_t capacity,
    size_t *out_count
);

/**
 * The places of a reservation, from number `first` on. Either array may be null.
 *
 * @return KVSTORE_OK; KVSTORE_INVALID_ARGUMENT when there are no places first ..< first + count;
 *         KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_reservation_blocks(
    kvstore_reservation reservation,
    size_t first,
    size_t count,
    uint32_t *block_numbers,
    void **blocks
);

/**
 * Makes the blocks of a reservation visible. Every place must have been filled, and nobody may write to it any more.
 * Takes one pass over the bytes (with a daemon: the daemon copies them). Ends the handle, whatever it returns.
 *
 * @param out_count blocks that became visible: fewer than reserved when somebody else was first. May be null.
 * @return KVSTORE_OK; KVSTORE_MISS when none became visible; KVSTORE_INVALID_HANDLE, KVSTORE_FORKED.
 */
kvstore_status kvstore_commit(kvstore_reservation reservation, size_t *out_count);

/** Gives a reservation back without storing anything. @return KVSTORE_OK, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED. */
kvstore_status kvstore_abandon(kvstore_reservation reservation);

/* ---- Copies ------------------------------------------------------------------------------------------------------ */

/**
 * Copies stored blocks into a buffer: those from number `first` on that are stored together with all before them, as
 * many as the buffer holds, one after the other.
 *
 * @param flags 0 or KVSTORE_MEMORY_ONLY.
 * @param buffer_size bytes; what is over a multiple of block_bytes is not used. At least one block.
 * @param out_count blocks that were copied.
 * @return KVSTORE_OK; KVSTORE_MISS when it is none (out_count is 0, the buffer's content undefined);
 *         KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_CLOSED.
 */
kvstore_status kvstore_get(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    size_t first,
    uint32_t flags,
    void *buffer,
    size_t buffer_size,
    size_t *out_count
);

/**
 * Stores blocks from a buffer that holds those from number `first` on, one after the other. Blocks that are stored
 * already are left alone. Blocks before `first` must be stored, for nothing is kept without what it builds on.
 *
 * @param buffer_size whole blocks, and no more than the prefix has from `first` on.
 * @param out_count blocks that became visible by this call. May be null.
 * @return KVSTORE_OK; KVSTORE_MISS when it is none; KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED,
 *         KVSTORE_CLOSED.
 */
kvstore_status kvstore_put(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    size_t first,
    const void *buffer,
    size_t buffer_size,
    size_t *out_count
);

/* ---- Hints and removal ------------------------------------------------------------------------------------------- */

/**
 * Has blocks that are only on disk read into memory, in the background.
 *
 * @return KVSTORE_OK whether or not there are any; KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED,
 *         KVSTORE_CLOSED.
 */
kvstore_status kvstore_prefetch(kvstore_namespace name_space, const kvstore_prefix *prefix);

/**
 * Keeps the stored blocks of a prefix in the daemon's memory for a time, without a lease.
 *
 * @param out_count blocks that are kept. May be null.
 * @return KVSTORE_OK; KVSTORE_MISS when it is none; KVSTORE_UNSUPPORTED for a store of this process: hold a lease
 *         there; KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED, KVSTORE_CLOSED.
 */
kvstore_status kvstore_pin(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    uint32_t seconds,
    size_t *out_count
);

/** Ends a pin. As kvstore_pin; out_count is how many blocks were kept by it. */
kvstore_status kvstore_unpin(kvstore_namespace name_space, const kvstore_prefix *prefix, size_t *out_count);

/**
 * Removes the blocks of a prefix from number `first` on, and every block that builds on one of them, from every tier.
 * Blocks under a lease stay readable until it ends, but are not found any more.
 *
 * @param out_count blocks that were removed. May be null.
 * @return KVSTORE_OK; KVSTORE_MISS when it is none; KVSTORE_INVALID_ARGUMENT, KVSTORE_INVALID_HANDLE, KVSTORE_FORKED,
 *         KVSTORE_CLOSED.
 */
kvstore_status kvstore_remove(
    kvstore_namespace name_space,
    const kvstore_prefix *prefix,
    size_t first,
    size_t *out_count
);

#ifdef __cplusplus
}
#endif

#endif
