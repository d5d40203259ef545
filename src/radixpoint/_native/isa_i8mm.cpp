// Arm NEON with the mixed-sign dot product of Armv8.6 (usdot) for 8-bit operands.
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#else
#include <sys/sysctl.h>
#endif

#define RP_NAMESPACE i8mm
#include "neon.hpp"
#define RP_DOT8(a, x, w) ((I32)vusdotq_s32((int32x4_t)(a), (uint8x16_t)(x), (int8x16_t)(w)))
#include "kernels_source.hpp"

namespace radixpoint {
namespace {
bool has_i8mm() {
#ifdef __linux__
  constexpr unsigned long I8MM = 1ul << 13;  // HWCAP2_I8MM
  return (getauxval(AT_HWCAP2) & I8MM) != 0;
#else
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &value, &size, nullptr, 0) == 0 && value != 0;
#endif
}
}  // namespace
const Kernels I8MM = {"i8mm",     RP_LANES,        RP_VECTORS, RP_ROWS,   true, false, false, has_i8mm,
                      i8mm::conv, i8mm::winograd, i8mm::depthwise, i8mm::pool, i8mm::peak};
}  // namespace radixpoint
