// AVX2: vpmaddwd and vpaddd; for 8-bit operands vpmaddubsw, where no pair of products saturates 16 bits (the planner sees to
// it), and several of its results are added in 16 bits where they stay within.
#include <immintrin.h>

#define RP_NAMESPACE avx2
#define RP_LANES 8
#define RP_VECTORS 2
#define RP_ROWS 6
#define RP_DOT16(a, x, w) ((I32)_mm256_add_epi32((__m256i)(a), _mm256_madd_epi16((__m256i)(x), (__m256i)(w))))
// Integers to and from memory: GCC makes single insertions of a conversion from bytes.
#define RP_LOAD16(p) ((I32)_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)(p))))
#define RP_LOAD8(p) ((I32)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p))))
#define RP_PACK16(x) \
  (_mm_packs_epi32(_mm256_castsi256_si128((__m256i)(x)), _mm256_extracti128_si256((__m256i)(x), 1)))
#define RP_STORE16(p, x) (_mm_storeu_si128((__m128i*)(p), RP_PACK16(x)))
#define RP_STORE8(p, x) (_mm_storel_epi64((__m128i*)(p), _mm_packus_epi16(RP_PACK16(x), _mm_setzero_si128())))
// Packed, each half of 128 bits holds four integers of the first vector, then four of the second.
#define RP_PACK(a, b) ((I16P)_mm256_packs_epi32((__m256i)(a), (__m256i)(b)))
#define RP_PAIRS_FIRST(x, y) (_mm256_unpacklo_epi16((__m256i)(x), (__m256i)(y)))
#define RP_PAIRS_SECOND(x, y) (_mm256_unpackhi_epi16((__m256i)(x), (__m256i)(y)))
#define RP_ADD_LIMITED(x, y) ((I16P)_mm256_adds_epi16((__m256i)(x), (__m256i)(y)))
#define RP_SWAP_MIDDLE(x) _mm256_permute4x64_epi64((__m256i)(x), 0xd8)
#define RP_LOAD_PACKED16(p) ((I16P)RP_SWAP_MIDDLE(_mm256_loadu_si256((const __m256i*)(p))))
#define RP_LOAD_PACKED8(p) \
  ((I16P)_mm256_cvtepu8_epi16(_mm_shuffle_epi32(_mm_loadu_si128((const __m128i*)(p)), 0xd8)))
#define RP_STORE_PACKED16(p, x) _mm256_storeu_si256((__m256i*)(p), RP_SWAP_MIDDLE(x))
#define RP_STORE_PACKED8(p, x)                                                                                    \
  _mm_storeu_si128((__m128i*)(p), _mm_shuffle_epi32(_mm_packus_epi16(_mm256_castsi256_si128((__m256i)(x)),           \
                                                                     _mm256_extracti128_si256((__m256i)(x), 1)), 0xd8))
#define RP_PAIR8(p, q)                                                          \
  ((I32)_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i*)(p)), \
                                               _mm_loadl_epi64((const __m128i*)(q)))))
#define RP_PAIR16(p, q)                                                                  \
  ((I32)_mm256_set_m128i(                                                                \
      _mm_unpackhi_epi16(_mm_loadu_si128((const __m128i*)(p)), _mm_loadu_si128((const __m128i*)(q))), \
      _mm_unpacklo_epi16(_mm_loadu_si128((const __m128i*)(p)), _mm_loadu_si128((const __m128i*)(q)))))
#define RP_PAIRS8(x, w) ((I32)_mm256_maddubs_epi16((__m256i)(x), (__m256i)(w)))
#define RP_ADD16(a, b) ((I32)_mm256_add_epi16((__m256i)(a), (__m256i)(b)))
// Neighbours added, in 32 bits. The ones are a memory operand: in a register, they would push one of the sums out of the
// loop's registers, and each addition to it would wait for the one before to come back from memory.
alignas(32) static const short ONES[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static inline __attribute__((always_inline)) __m256i widened(__m256i a) {
  asm("vpmaddwd %1, %0, %0" : "+x"(a) : "m"(ONES));
  return a;
}
#define RP_WIDEN16(a) ((I32)widened((__m256i)(a)))
#define RP_DOT8(a, x, w) ((I32)_mm256_add_epi32((__m256i)(a), (__m256i)RP_WIDEN16(RP_PAIRS8(x, w))))
#define RP_OPAQUE(v) asm volatile("" : "+x"(v))
#include "kernels_source.hpp"

namespace radixpoint {
namespace {
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
}  // namespace
const Kernels AVX2 = {"avx2",     RP_LANES,        RP_VECTORS, RP_ROWS,   true,  true,  false, has_avx2,
                      avx2::conv, avx2::winograd, avx2::depthwise, avx2::pool, avx2::peak};
}  // namespace radixpoint
