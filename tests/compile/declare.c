/* The header as most files of a program see it; the object must hold no code, no data. */
#include "tfblocks.h"
typedef int nothing;
