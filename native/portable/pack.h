// Packs f32 and bf16 weights into panels of 16 outputs (panel_bytes in table.h). Outputs and inputs past the matrix are
// zeros. Integer work: the same on every machine.
#pragma once

#include <cstdint>

#include "../table.h"

namespace ingot {

// Writes one panel, which begins at `to`, in `format` (f32 or bf16). f32 to bf16 rounds to nearest even; NaN stays NaN.
void pack_panel(const Unpacked& from, int64_t panel, Format format, uint8_t* to);

}  // namespace ingot
