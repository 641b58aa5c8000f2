#define INGOT_ISA avx512
#include "avx512.h"

#include "../kernels/kernels.h"
