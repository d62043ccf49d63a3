/* The instruction-set tables for all test programs of a compiler: compiled once. */
#define TFBLOCKS_IMPLEMENTATION
#define TFB_STATIC
#define TFB_PTHREADS
#define TFB__TABLES 1
#include "tfblocks.h"
