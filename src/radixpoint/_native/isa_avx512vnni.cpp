// AVX-512 with VNNI: vpdpwssd and vpdpbusd.
#include <immintrin.h>

#define RP_NAMESPACE avx512vnni
#define RP_ROWS 6
#define RP_DOT8(a, x, w) ((I32)_mm512_dpbusd_epi32((__m512i)(a), (__m512i)(x), (__m512i)(w)))
#include "avx512.hpp"
#include "kernels_source.hpp"

namespace radixpoint {
const Kernels AVX512VNNI = {"avx512vnni",     RP_LANES,         RP_VECTORS, RP_ROWS, true, false, false, has_avx512vnni,
                            avx512vnni::conv, avx512vnni::winograd, avx512vnni::depthwise, avx512vnni::pool, avx512vnni::peak};
}
