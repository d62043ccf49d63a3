/* The instruction-set tables for all test programs of a compiler: compiled once. */
#define TFBLOCKS_IMPLEMENTATION
#define TFB_STATIC
#if !defined(_WIN32) && !defined(__wasm__)
#define TFB_PTHREADS
#endif
#define TFB__TABLES 1
#include "tfblocks.h"
