// What the two instruction sets with AVX-512 VNNI share; see kernels_source.hpp.
#pragma once

#define RP_LANES 16
#define RP_VECTORS 4
#define RP_DOT16(a, x, w) ((I32)_mm512_dpwssd_epi32((__m512i)(a), (__m512i)(x), (__m512i)(w)))
#define RP_LOAD16(p) ((I32)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)(p))))
#define RP_LOAD8(p) ((I32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(p))))
#define RP_STORE16(p, x) _mm256_storeu_si256((__m256i*)(p), _mm512_cvtepi32_epi16((__m512i)(x)))
#define RP_STORE8(p, x) _mm_storeu_si128((__m128i*)(p), _mm512_cvtepi32_epi8((__m512i)(x)))
// Packed, each quarter of 128 bits holds four integers of the first vector, then four of the second.
#define RP_PACK(a, b) ((I16P)_mm512_packs_epi32((__m512i)(a), (__m512i)(b)))
#define RP_PAIRS_FIRST(x, y) (_mm512_unpacklo_epi16((__m512i)(x), (__m512i)(y)))
#define RP_PAIRS_SECOND(x, y) (_mm512_unpackhi_epi16((__m512i)(x), (__m512i)(y)))
#define RP_ADD_LIMITED(x, y) ((I16P)_mm512_adds_epi16((__m512i)(x), (__m512i)(y)))
#define RP_LOAD_PACKED16(p) \
  ((I16P)_mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), _mm512_loadu_si512((const void*)(p))))
#define RP_LOAD_PACKED8(p)                                \
  ((I16P)_mm512_cvtepu8_epi16(_mm256_permutevar8x32_epi32( \
      _mm256_loadu_si256((const __m256i*)(p)), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))))
#define RP_STORE_PACKED16(p, x) \
  _mm512_storeu_si512((void*)(p), _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), (__m512i)(x)))
#define RP_STORE_PACKED8(p, x)                                                                        \
  _mm256_storeu_si256((__m256i*)(p), _mm256_permutevar8x32_epi32(_mm512_cvtepi16_epi8((__m512i)(x)), \
                                                                 _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7)))
#define RP_OPAQUE(v) asm volatile("" : "+v"(v))

namespace {
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
}  // namespace
