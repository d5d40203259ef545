// No intrinsics: what the compiler makes of vectors of 32 bytes on any machine.
#define RP_NAMESPACE portable
#define RP_LANES 8
#define RP_VECTORS 1
#define RP_ROWS 4
#define RP_DOT16(a, x, w)                                              \
  ((I32)((U32)(a) + (U32)((((x) << 16) >> 16) * (((w) << 16) >> 16)) + \
         (U32)(((x) >> 16) * ((w) >> 16))))
#define RP_OPAQUE(v) asm volatile("" : "+m"(v))
#include "kernels_source.hpp"

namespace radixpoint {
namespace {
bool anywhere() { return true; }
}  // namespace
const Kernels PORTABLE = {"portable",     RP_LANES,            RP_VECTORS,     RP_ROWS,       false, false, false, anywhere,
                          portable::conv, portable::winograd, portable::depthwise, portable::pool, portable::peak};
}  // namespace radixpoint
