#define INGOT_ISA avx2_vnni
#define INGOT_VNNI
#include "avx2.h"

#include "../kernels/kernels.h"
