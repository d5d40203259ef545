/* The arithmetic of radixpoint in C99: roundings and overflows of 64-bit integers, exact for every input.
   Right shifts of negative numbers must be arithmetic; the array below does not compile where they are not. */
#ifndef RADIXPOINT_H
#define RADIXPOINT_H

#include <stdint.h>

typedef char radixpoint_needs_arithmetic_right_shift[(-3 >> 1) == -2 ? 1 : -1];

#ifdef RADIXPOINT_TRACE
void radixpoint_trace(int tensor, int32_t index, int64_t value);
#define RX_TRACE(tensor, index, value) radixpoint_trace((tensor), (index), (value))
#else
#define RX_TRACE(tensor, index, value) ((void)0)
#endif

/* ---- x / 2^s rounded to an integer, s >= 1 ---- */

/* Beyond 62 places only the sign and whether anything is there count: keep both. */
static inline int64_t rx_near(int64_t x, int s) {
  if (s > 62) x = (x >> 1) | (x & 1);
  if (s > 63) x = (x >> 1) | (x & 1);
  if (s > 64) x = (x > 0) - (x < 0);
  return x;
}

static inline int64_t rx_rest(int64_t x, int s) { return x & (((int64_t)1 << s) - 1); }

#define RX_ROUNDING(name, up)                                  \
  static inline int64_t rx_round_##name(int64_t x, int s) {    \
    x = rx_near(x, s);                                         \
    if (s > 62) s = 62;                                        \
    const int64_t floor = x >> s, rest = rx_rest(x, s);        \
    const int64_t half = (int64_t)1 << (s - 1);                \
    (void)rest, (void)half;                                    \
    return floor + (up);                                       \
  }
RX_ROUNDING(TRN, 0)
RX_ROUNDING(TRN_ZERO, x < 0 && rest > 0)
RX_ROUNDING(RND, rest >= half)
RX_ROUNDING(RND_MIN_INF, rest > half)
RX_ROUNDING(RND_INF, rest > half || (rest == half && x > 0))
RX_ROUNDING(RND_ZERO, rest > half || (rest == half && x < 0))
RX_ROUNDING(RND_CONV, rest > half || (rest == half && (floor & 1)))

/* The same in 32 bits, 1 <= s <= 30: where every value is proven to fit, also with half a place added. */
#define RX_ROUNDING32(name, up)                                \
  static inline int32_t rx_round32_##name(int32_t x, int s) {  \
    const int32_t floor = x >> s;                              \
    const uint32_t half = UINT32_C(1) << (s - 1);              \
    const uint32_t rest = (uint32_t)x & (2 * half - 1);        \
    (void)rest, (void)half;                                    \
    return floor + (up);                                       \
  }
RX_ROUNDING32(TRN, 0)
RX_ROUNDING32(TRN_ZERO, x < 0 && rest > 0)
static inline int32_t rx_round32_RND(int32_t x, int s) { return (x + (1 << (s - 1))) >> s; }
RX_ROUNDING32(RND_MIN_INF, rest > half)
RX_ROUNDING32(RND_INF, rest > half || (rest == half && x > 0))
RX_ROUNDING32(RND_ZERO, rest > half || (rest == half && x < 0))
RX_ROUNDING32(RND_CONV, rest > half || (rest == half && (floor & 1)))

/* SplitMix64's output function (Steele, Lea, Flood 2014): draw number `index` of a cast with this key. */
static inline uint64_t rx_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

/* Up if and only if draw / 2^64 is less than the fraction that is cut off. */
static inline int64_t rx_round_STOCHASTIC(int64_t x, int s, uint64_t key, uint64_t index) {
  const uint64_t draw = rx_mix(key + (index + 1) * UINT64_C(0x9E3779B97F4A7C15));
  if (s <= 63) {
    const int64_t floor = x >> s;
    const uint64_t rest = (uint64_t)x & ((UINT64_C(1) << s) - 1);
    return floor + ((draw >> (64 - s)) < rest);
  } else {
    const int places = s - 64 < 63 ? s - 64 : 63;
    const int64_t lost = x & (int64_t)((UINT64_C(1) << places) - 1);
    int64_t top = (x >> places) + (lost != 0);
    if (s > 127) top = x > 0;
    return (x < 0 ? -1 : 0) + (draw < (uint64_t)top || (x < 0 && top == 0));
  }
}

/* ---- overflow ---- */

static inline int64_t rx_saturate(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

static inline int32_t rx_saturate32(int32_t x, int32_t low, int32_t high) {
  return x < low ? low : x > high ? high : x;
}

/* To so many bits, with and without a sign: one instruction where the processor has it. */
#if defined(__GNUC__) && defined(__ARM_FEATURE_SAT)
#include <arm_acle.h>
#define rx_ssat(x, bits) __ssat((x), (bits))
#define rx_usat(x, bits) ((int32_t)__usat((x), (bits)))
#else
#define rx_ssat(x, bits) rx_saturate32((x), -(1 << ((bits) - 1)), (1 << ((bits) - 1)) - 1)
#define rx_usat(x, bits) rx_saturate32((x), 0, (int32_t)((UINT32_C(1) << (bits)) - 1))
#endif

static inline int32_t rx_wrap32(int32_t x, int bits, int is_signed) {
  const uint32_t kept = bits == 32 ? (uint32_t)x : (uint32_t)x & ((UINT32_C(1) << bits) - 1);
  const uint32_t sign = is_signed ? UINT32_C(1) << (bits - 1) : 0;
  return (int32_t)((int64_t)(kept ^ sign) - (int64_t)sign);
}

static inline int64_t rx_wrap(int64_t x, int bits, int is_signed) {
  if (bits == 64) return x;
  const uint64_t kept = (uint64_t)x & ((UINT64_C(1) << bits) - 1);
  const uint64_t sign = is_signed ? UINT64_C(1) << (bits - 1) : 0;
  return (int64_t)(kept ^ sign) - (int64_t)sign;
}

/* x * 2^s, s >= 0: saturating at the ends of int64_t, or keeping the low 64 bits. */
static inline int64_t rx_left_SAT(int64_t x, int s) {
  const int64_t top = INT64_MAX >> (s < 62 ? s : 62);
  if (x == 0) return 0;
  if (s > 62 || x > top || x < -top) return x > 0 ? INT64_MAX : INT64_MIN;
  return x * ((int64_t)1 << s);
}

static inline int64_t rx_left_WRAP(int64_t x, int s) {
  const uint64_t y = s > 63 ? 0 : (uint64_t)x << s;
  return y <= (uint64_t)INT64_MAX ? (int64_t)y : -(int64_t)(UINT64_MAX - y) - 1;
}

/* x * 2^s where it is known to fit, 0 <= s <= 62. */
static inline int64_t rx_align(int64_t x, int s) { return x * ((int64_t)1 << s); }

static inline int32_t rx_align32(int32_t x, int s) { return (int32_t)((int64_t)x * ((int64_t)1 << s)); }

/* ---- n / d rounded once, d > 0 ---- */

#define RX_DIVISION_IN(function, type, up)                                         \
  static inline type function(type n, type d) {                                    \
    const type x = n, floor = n / d - (n % d < 0);                                 \
    const type part = n % d < 0 ? n % d + d : n % d;                               \
    const type half = 2, rest = part == 0 ? 0 : part < d - part ? 1 : part == d - part ? 2 : 3; \
    (void)x, (void)rest, (void)half;                                               \
    return floor + (up);                                                           \
  }
#define RX_DIVISION(name, up)                          \
  RX_DIVISION_IN(rx_divide_##name, int64_t, up)        \
  RX_DIVISION_IN(rx_divide32_##name, int32_t, up)
RX_DIVISION(TRN, 0)
RX_DIVISION(TRN_ZERO, x < 0 && rest > 0)
RX_DIVISION(RND, rest >= half)
RX_DIVISION(RND_MIN_INF, rest > half)
RX_DIVISION(RND_INF, rest > half || (rest == half && x > 0))
RX_DIVISION(RND_ZERO, rest > half || (rest == half && x < 0))
RX_DIVISION(RND_CONV, rest > half || (rest == half && (floor & 1)))

/* ---- windows: taps k with 0 <= at + k * dilation < size ---- */

static inline int32_t rx_first(int32_t at, int32_t dilation) {
  return at >= 0 ? 0 : (-at + dilation - 1) / dilation;
}

static inline int32_t rx_last(int32_t at, int32_t size, int32_t kernel, int32_t dilation) {
  const int32_t inside = at >= size ? 0 : (size - 1 - at) / dilation + 1;
  return inside < kernel ? inside : kernel;
}

/* ---- sums of products ----
   name_4: sums[j] += b[j * stride + i] * a[i] over i < n, for four j. name_1: one such sum.
   Defined once for each combination of types that a network has, and shared by its layers. */

#define RX_DOT_1(name, weight_t, value_t, sum_t)                                     \
  static inline sum_t name##_1(const value_t *a, const weight_t *b, int32_t n) {     \
    sum_t sum = 0;                                                                   \
    for (int32_t i = 0; i < n; ++i) sum += (sum_t)b[i] * a[i];                       \
    return sum;                                                                      \
  }

#define RX_DOT(name, weight_t, value_t, sum_t)                                                             \
  RX_DOT_1(name, weight_t, value_t, sum_t)                                                                 \
  static void name##_4(const value_t *a, const weight_t *b, int32_t stride, int32_t n, sum_t *sums) {      \
    const weight_t *b0 = b, *b1 = b0 + stride, *b2 = b1 + stride, *b3 = b2 + stride;                       \
    sum_t s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];                                          \
    const value_t *const end = a + n, *const whole = a + n / 4 * 4;                                        \
    for (; a < whole; a += 4, b0 += 4, b1 += 4, b2 += 4, b3 += 4) {                                        \
      const sum_t x0 = a[0], x1 = a[1], x2 = a[2], x3 = a[3];                                              \
      s0 += b0[0] * x0, s0 += b0[1] * x1, s0 += b0[2] * x2, s0 += b0[3] * x3;                              \
      s1 += b1[0] * x0, s1 += b1[1] * x1, s1 += b1[2] * x2, s1 += b1[3] * x3;                              \
      s2 += b2[0] * x0, s2 += b2[1] * x1, s2 += b2[2] * x2, s2 += b2[3] * x3;                              \
      s3 += b3[0] * x0, s3 += b3[1] * x1, s3 += b3[2] * x2, s3 += b3[3] * x3;                              \
    }                                                                                                      \
    for (; a < end; ++a, ++b0, ++b1, ++b2, ++b3) {                                                         \
      const sum_t x = a[0];                                                                                \
      s0 += b0[0] * x, s1 += b1[0] * x, s2 += b2[0] * x, s3 += b3[0] * x;                                  \
    }                                                                                                      \
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;                                                \
  }

/* Of bytes; radixpoint_dsp.h has another one. */
#ifdef RADIXPOINT_DSP
#include "radixpoint_dsp.h"
#else
#define RX_DOT_BYTES(name, weight_t, value_t, weight_sign, value_sign) RX_DOT(name, weight_t, value_t, int32_t)
#endif

#endif
