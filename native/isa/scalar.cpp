#define INGOT_ISA scalar
#include "scalar.h"

#include "../kernels/kernels.h"
