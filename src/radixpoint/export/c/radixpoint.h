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

/* ---- n / d rounded once, d > 0 ---- */

#define RX_DIVISION(name, up)                                                      \
  static inline int64_t rx_divide_##name(int64_t n, int64_t d) {                   \
    const int64_t x = n, floor = n / d - (n % d < 0);                              \
    const int64_t part = n % d < 0 ? n % d + d : n % d;                            \
    const int64_t half = 2, rest = part == 0 ? 0 : part < d - part ? 1 : part == d - part ? 2 : 3; \
    (void)x, (void)rest, (void)half;                                               \
    return floor + (up);                                                           \
  }
RX_DIVISION(TRN, 0)
RX_DIVISION(TRN_ZERO, x < 0 && rest > 0)
RX_DIVISION(RND, rest >= half)
RX_DIVISION(RND_MIN_INF, rest > half)
RX_DIVISION(RND_INF, rest > half || (rest == half && x > 0))
RX_DIVISION(RND_ZERO, rest > half || (rest == half && x < 0))
RX_DIVISION(RND_CONV, rest > half || (rest == half && (floor & 1)))

#endif
