// XXH3 is exported by libxxhash as ordinary functions; the inlined variants of the header are not needed.
#include <xxhash.h>
