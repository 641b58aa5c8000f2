#define INGOT_ISA neon_dotprod
#include "neon.h"

#include "../kernels/kernels.h"
