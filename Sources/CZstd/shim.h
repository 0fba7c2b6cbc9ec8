#include <zstd.h>

// Literals are always coded with Huffman. Named only in the header's part for static linking, but every shared library
// since 1.4 takes it; the number is part of the stable enumeration.
static const ZSTD_cParameter kvstore_zstd_literal_compression_mode = ZSTD_c_experimentalParam5;
static const int kvstore_zstd_literals_huffman = 1;
