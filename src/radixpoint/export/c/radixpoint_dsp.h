/* Sums of products of bytes by the DSP instructions of Arm Cortex-M4, M7, M33, M55: two products an instruction.
   The same integers: SMLAD adds modulo 2^32, and no sum leaves 32 bits. Compile with -DRADIXPOINT_DSP. */
#ifndef RADIXPOINT_DSP_H
#define RADIXPOINT_DSP_H

#include <string.h>

#if !defined(__ARM_FEATURE_DSP) || !defined(__ARM_FEATURE_SIMD32)
#error "RADIXPOINT_DSP: expected a processor with Arm's DSP extension, such as -mcpu=cortex-m7"
#endif

/* Bytes 0 and 2, or 1 and 3, as two numbers of 16 bits. */
#define RX_HALVES(sign, instruction)                                           \
  static inline uint32_t rx_even_##sign(uint32_t x) {                          \
    uint32_t y;                                                                \
    __asm__(instruction " %0, %1" : "=r"(y) : "r"(x));                         \
    return y;                                                                  \
  }                                                                            \
  static inline uint32_t rx_odd_##sign(uint32_t x) {                           \
    uint32_t y;                                                                \
    __asm__(instruction " %0, %1, ror #8" : "=r"(y) : "r"(x));                 \
    return y;                                                                  \
  }
RX_HALVES(s, "sxtb16")
RX_HALVES(u, "uxtb16")

static inline int32_t rx_smlad(uint32_t x, uint32_t y, int32_t sum) {
  int32_t result;
  __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(x), "r"(y), "r"(sum));
  return result;
}

static inline uint32_t rx_four(const void *bytes) {
  uint32_t word;
  memcpy(&word, bytes, sizeof word);
  return word;
}

#define RX_FOUR(sum, b, sign)                                       \
  word = rx_four(b);                                                \
  sum = rx_smlad(even, rx_even_##sign(word), sum);                  \
  sum = rx_smlad(odd, rx_odd_##sign(word), sum);

#define RX_DOT_BYTES(name, weight_t, value_t, weight_sign, value_sign)                                     \
  RX_DOT_1(name, weight_t, value_t, int32_t)                                                               \
  static void name##_4(const value_t *a, const weight_t *b, int32_t stride, int32_t n, int32_t *sums) {    \
    const weight_t *b0 = b, *b1 = b0 + stride, *b2 = b1 + stride, *b3 = b2 + stride;                       \
    int32_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];                                        \
    const value_t *const end = a + n, *const whole = a + n / 4 * 4;                                        \
    for (; a < whole; a += 4, b0 += 4, b1 += 4, b2 += 4, b3 += 4) {                                        \
      const uint32_t four = rx_four(a);                                                                    \
      const uint32_t even = rx_even_##value_sign(four), odd = rx_odd_##value_sign(four);                   \
      uint32_t word;                                                                                       \
      RX_FOUR(s0, b0, weight_sign)                                                                         \
      RX_FOUR(s1, b1, weight_sign)                                                                         \
      RX_FOUR(s2, b2, weight_sign)                                                                         \
      RX_FOUR(s3, b3, weight_sign)                                                                         \
    }                                                                                                      \
    for (; a < end; ++a, ++b0, ++b1, ++b2, ++b3) {                                                         \
      const int32_t x = a[0];                                                                              \
      s0 += b0[0] * x, s1 += b1[0] * x, s2 += b2[0] * x, s3 += b3[0] * x;                                  \
    }                                                                                                      \
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;                                                \
  }

#endif
