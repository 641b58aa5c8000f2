#define INGOT_ISA neon
#include "neon.h"

#include "../kernels/kernels.h"
