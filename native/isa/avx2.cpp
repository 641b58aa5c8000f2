#define INGOT_ISA avx2
#include "avx2.h"

#include "../kernels/kernels.h"
