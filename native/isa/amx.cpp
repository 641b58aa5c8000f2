#define INGOT_ISA amx
#define INGOT_VNNI
#define INGOT_TILES
#include "amx.h"

#include "../kernels/kernels.h"
