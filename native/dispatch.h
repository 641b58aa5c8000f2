// Which instruction sets were compiled in, and which of them this machine runs.
#pragma once

#include <string>
#include <vector>

#include "table.h"

namespace ingot {

// Best first; the last is always "scalar".
std::vector<const Kernels*> available_kernels();

// The table called `name`, or the best one for an empty name. Throws std::invalid_argument.
const Kernels& find_kernels(const std::string& name);

}  // namespace ingot
