/* The implementation and nothing else: the other translation unit of prog.c, the object
 * whose symbols are checked. */
#define TFBLOCKS_IMPLEMENTATION
#include "tfblocks.h"
