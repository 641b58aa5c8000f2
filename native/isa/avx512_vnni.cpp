#define INGOT_ISA avx512_vnni
#define INGOT_VNNI
#include "avx512.h"

#include "../kernels/kernels.h"
