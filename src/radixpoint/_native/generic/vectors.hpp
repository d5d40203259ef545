// Vectors, and tensors in memory as vectors. Included by kernels_source.hpp, in its namespace, once for every instruction set.

constexpr int LANES = RP_LANES;
constexpr int HALF = LANES / 2;
constexpr int VECTORS = RP_VECTORS;
constexpr int ROWS = RP_ROWS;
constexpr int PANEL = LANES * VECTORS;
constexpr int64_t BLOCK = 16;  // tiles whose pointers are worked out at a time

typedef int32_t I32 __attribute__((vector_size(4 * RP_LANES)));
typedef uint32_t U32 __attribute__((vector_size(4 * RP_LANES)));
typedef int16_t I16 __attribute__((vector_size(2 * RP_LANES)));
typedef uint8_t U8 __attribute__((vector_size(RP_LANES)));
typedef int64_t I64 __attribute__((vector_size(4 * RP_LANES)));
typedef uint64_t U64 __attribute__((vector_size(4 * RP_LANES)));
typedef int32_t I32H __attribute__((vector_size(2 * RP_LANES)));
typedef int16_t I16H __attribute__((vector_size(RP_LANES)));
typedef uint8_t U8H __attribute__((vector_size(RP_LANES / 2)));


// Calls f with each index as a constant, so that arrays indexed by it live in registers.
template <int... INDEX, class F>
RP_INLINE void each(std::integer_sequence<int, INDEX...>, F f) {
  (f(std::integral_constant<int, INDEX>{}), ...);
}
#define RP_LAMBDA __attribute__((always_inline))
#define RP_EACH(r, count, ...) each(std::make_integer_sequence<int, count>{}, [&](auto r) RP_LAMBDA { __VA_ARGS__; })
#define RP_EACH_ROW(...) RP_EACH(r, ROWS, __VA_ARGS__)

template <class V>
RP_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The first `bytes` of a vector, then zeros.
template <class V>
RP_INLINE V load_part(const void* p, std::size_t bytes) {
  if (bytes >= sizeof(V)) return load<V>(p);
  V v{};
  std::memcpy(&v, p, bytes);
  return v;
}

template <class V>
RP_INLINE void store(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// 32-bit and 64-bit arithmetic, with the narrower types that convert to each.
struct Narrow {
  using V = I32;
  using Unsigned = U32;
  using Short = I16;
  using Byte = U8;
  using T = int32_t;
  static constexpr int lanes = LANES;
};
struct Wide {
  using V = I64;
  using Unsigned = U64;
  using Short = I16H;
  using Byte = U8H;
  using T = int64_t;
  static constexpr int lanes = HALF;
};

template <class W>
RP_INLINE typename W::V splat(typename W::T x) {
  return x - typename W::V{};
}

// Modulo 2**32 and 2**64. What counts stays within range, but rows and lanes beyond a tile's go through as well.
RP_INLINE I32 plus(I32 a, I32 b) { return (I32)((U32)a + (U32)b); }
RP_INLINE I64 plus(I64 a, I64 b) { return (I64)((U64)a + (U64)b); }
RP_INLINE I32 times(I32 a, I32 b) { return (I32)((U32)a * (U32)b); }
RP_INLINE I64 times(I64 a, I64 b) { return (I64)((U64)a * (U64)b); }
RP_INLINE I32 shifted_left(I32 a, I32 places) { return (I32)((U32)a << (U32)places); }
RP_INLINE I64 shifted_left(I64 a, I64 places) { return (I64)((U64)a << (U64)places); }

template <class From, class V>
RP_INLINE V load_as(const uint8_t* p, int count, int lanes) {
  constexpr auto size = sizeof(From) / (sizeof(V) / sizeof(V{}[0]));
  From raw = count >= lanes ? load<From>(p) : load_part<From>(p, static_cast<std::size_t>(count) * size);
  return __builtin_convertvector(raw, V);
}

#ifndef RP_LOAD16
#define RP_LOAD16(p) (load_as<I16, I32>(p, LANES, LANES))
#define RP_LOAD8(p) (load_as<U8, I32>(p, LANES, LANES))
#define RP_STORE16(p, x) (store_as<I16>(p, x, LANES, LANES))
#define RP_STORE8(p, x) (store_as<U8>(p, x, LANES, LANES))
#endif

// `count` integers of a buffer (the rest are 0 or, in U8, minus its zero; nobody looks at them).
template <class W>
RP_INLINE typename W::V load_stored(const Buffer& b, const uint8_t* p, int count) {
  using V = typename W::V;
  if constexpr (W::lanes == LANES)
    if (count >= LANES) {
      if (b.storage == Storage::U8) return RP_LOAD8(p) - splat<W>(b.zero);
      if (b.storage == Storage::I16) return RP_LOAD16(p);
    }
  switch (b.storage) {
    case Storage::I16:
      return load_as<typename W::Short, V>(p, count, W::lanes);
    case Storage::U8:
      return load_as<typename W::Byte, V>(p, count, W::lanes) - splat<W>(b.zero);
    case Storage::I32:
      if constexpr (W::lanes == LANES) return load_as<I32, V>(p, count, W::lanes);
      else return load_as<I32H, V>(p, count, W::lanes);
    default:
      if constexpr (W::lanes == LANES) {
        V v{};
        for (int i = 0; i < std::min(count, LANES); ++i) v[i] = static_cast<int32_t>(load<int64_t>(p + 8 * i));
        return v;
      } else {
        return load_as<I64, V>(p, count, W::lanes);
      }
  }
}

template <class To, class V>
RP_INLINE void store_as(uint8_t* p, V v, int count, int lanes) {
  constexpr auto size = sizeof(To) / (sizeof(V) / sizeof(V{}[0]));
  To out = __builtin_convertvector(v, To);
  if (count >= lanes) store(p, out);
  else std::memcpy(p, &out, static_cast<std::size_t>(count) * size);
}

template <class W>
RP_INLINE void store_stored(const Buffer& b, uint8_t* p, typename W::V v, int count) {
  if constexpr (W::lanes == LANES)
    if (count >= LANES) {
      if (b.storage == Storage::U8) return (void)RP_STORE8(p, v + splat<W>(b.zero));
      if (b.storage == Storage::I16) return (void)RP_STORE16(p, v);
    }
  switch (b.storage) {
    case Storage::I16:
      return store_as<typename W::Short>(p, v, count, W::lanes);
    case Storage::U8:
      return store_as<typename W::Byte>(p, v + splat<W>(b.zero), count, W::lanes);
    case Storage::I32:
      if constexpr (W::lanes == LANES) return store_as<I32>(p, v, count, W::lanes);
      else return store_as<I32H>(p, v, count, W::lanes);
    default:
      for (int i = 0; i < std::min(count, W::lanes); ++i) store<int64_t>(p + 8 * i, v[i]);
  }
}

constexpr int SPLIT_PLANE = ROWS * PANEL * 4;  // bytes of a tile before the plane of high parts

// A tile of integers on its way through a chain: rows of PANEL integers of 32 or 64 bits.
struct Tile {
  alignas(64) uint8_t data[ROWS * PANEL * 8];
  alignas(64) uint8_t spare[ROWS * PANEL * 8];  // where a stage that changes the width writes
  int split;  // of sums in two planes: see tile_product
  int rows;
  int64_t row;       // first output pixel, over all images
  int64_t channel;   // first channel
  int64_t channels;  // how many are real
};
