// Arm NEON (every AArch64 processor): smull, smull2 and addp. 8-bit operands are computed in 16 bits.
#include <arm_neon.h>

#define RP_NAMESPACE neon
#include "neon.hpp"
#include "kernels_source.hpp"

namespace radixpoint {
namespace {
bool anywhere() { return true; }
}  // namespace
const Kernels NEON = {"neon",     RP_LANES,        RP_VECTORS, RP_ROWS,   false, false, false, anywhere,
                      neon::conv, neon::winograd, neon::depthwise, neon::pool, neon::peak};
}  // namespace radixpoint
