// How fast the dot products are, alone. Included by kernels_source.hpp, in its namespace, once for every instruction set.

template <class Dot>
int64_t peak_of(int64_t rounds) {
  constexpr int CHAINS = 12;
  I32 sums[CHAINS];
  I32 x = splat<Narrow>(3), w = splat<Narrow>(5);
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) sums[i] = splat<Narrow>(i);
  for (int64_t k = 0; k < rounds; ++k) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; ++i) {
      sums[i] = Dot::dot(sums[i], x, w);
      RP_OPAQUE(x);
      RP_OPAQUE(sums[i]);  // or the compiler would fold the rounds
    }
  }
  I32 total{};
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; ++i) total += sums[i];
  volatile int32_t kept = total[0];
  (void)kept;
  return rounds * CHAINS * LANES;
}

#ifdef RP_ADD16
// Of bytes as long as 16 bits hold their sums.
struct Pairs8 {
  static RP_INLINE I32 dot(I32 a, I32 x, I32 w) { return RP_ADD16(a, RP_PAIRS8(x, w)); }
};
#endif

int64_t peak(bool bytes, int64_t rounds) {
#ifdef RP_ADD16
  if (bytes) return 4 * peak_of<Pairs8>(rounds);
#elif defined(RP_DOT8)
  if (bytes) return 4 * peak_of<Dot8>(rounds);
#endif
  (void)bytes;  // bytes are multiplied as 16 bits
  return 2 * peak_of<Dot16>(rounds);
}
