// AVX2: vpmaddwd and vpaddd. 8-bit operands are computed in 16 bits (vpmaddubsw would saturate).
#include <immintrin.h>

#define RP_NAMESPACE avx2
#define RP_LANES 8
#define RP_VECTORS 2
#define RP_ROWS 6
#define RP_DOT16(a, x, w) ((I32)_mm256_add_epi32((__m256i)(a), _mm256_madd_epi16((__m256i)(x), (__m256i)(w))))
#define RP_OPAQUE(v) asm volatile("" : "+x"(v))
#include "kernels_source.hpp"

namespace radixpoint {
namespace {
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
}  // namespace
const Kernels AVX2 = {"avx2",     RP_LANES,        RP_VECTORS, RP_ROWS,   false, false, has_avx2,
                      avx2::conv, avx2::depthwise, avx2::pool, avx2::peak};
}  // namespace radixpoint
