// What the two instruction sets with AVX-512 VNNI share; see kernels_source.hpp.
#pragma once

#define RP_LANES 16
#define RP_VECTORS 4
#define RP_DOT16(a, x, w) ((I32)_mm512_dpwssd_epi32((__m512i)(a), (__m512i)(x), (__m512i)(w)))
#define RP_LOAD16(p) ((I32)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)(p))))
#define RP_LOAD8(p) ((I32)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(p))))
#define RP_STORE16(p, x) _mm256_storeu_si256((__m256i*)(p), _mm512_cvtepi32_epi16((__m512i)(x)))
#define RP_STORE8(p, x) _mm_storeu_si128((__m128i*)(p), _mm512_cvtepi32_epi8((__m512i)(x)))
#define RP_OPAQUE(v) asm volatile("" : "+v"(v))

namespace {
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
}  // namespace
