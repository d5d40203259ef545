// The kernels, once for every instruction set. The includer defines
//   RP_NAMESPACE      name of the instruction set's namespace
//   RP_LANES          32-bit integers in a vector
//   RP_VECTORS        vectors of output channels in a panel
//   RP_ROWS           output pixels in a tile
//   RP_DOT16(a, x, w) a + the sums of products of pairs of 16-bit integers, modulo 2**32
//   RP_DOT8(a, x, w)  the same of quadruples, x unsigned and w signed (optional)
//   RP_LOAD16(p), RP_LOAD8(p), RP_STORE16(p, x), RP_STORE8(p, x)
//                     a vector of 32-bit integers from and to narrower ones in memory (optional)
//   RP_TILES          if the instruction set brings a convolution of its own
//   RP_OPAQUE(v)      a barrier that keeps v in a register (for peak)
// Vectors are the compilers' own (GCC, Clang), so that all but the dot products is plain arithmetic.

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "kernels.hpp"

namespace radixpoint {
namespace RP_NAMESPACE {
namespace {

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
#define RP_EACH(r, count, ...) \
  each(std::make_integer_sequence<int, count>{}, [&](auto r) __attribute__((always_inline)) { __VA_ARGS__; })
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

// `count` integers of a buffer (the rest are 0 or, in U8, minus its zero; nobody looks at them).
template <class W>
RP_INLINE typename W::V load_stored(const Buffer& b, const uint8_t* p, int count) {
  using V = typename W::V;
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

#ifndef RP_LOAD16
#define RP_LOAD16(p) (load_as<I16, I32>(p, LANES, LANES))
#define RP_LOAD8(p) (load_as<U8, I32>(p, LANES, LANES))
#define RP_STORE16(p, x) (store_as<I16>(p, x, LANES, LANES))
#define RP_STORE8(p, x) (store_as<U8>(p, x, LANES, LANES))
#endif

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

// ------------------------------------------------------------------------------------------------ stages

template <class W, class In>
RP_INLINE typename W::V from_tile(const uint8_t* p) {
  if constexpr (std::is_same_v<In, typename W::T>) return load<typename W::V>(p);
  else return __builtin_convertvector(load<I32H>(p), I64);  // 32 to 64
}

template <class W, class Out>
RP_INLINE void to_tile(uint8_t* p, typename W::V v) {
  if constexpr (std::is_same_v<Out, typename W::T>) store(p, v);
  else store(p, __builtin_convertvector(v, I32H));
}

template <class W, class In, class Out, Multiply MULTIPLY, bool PLAIN, bool OTHER>
void run_stage(const Stage& s, const Tile& tile, const uint8_t* from, uint8_t* to, const View& view) {
  using V = typename W::V;
  using T = typename W::T;
  const V low = splat<W>(static_cast<T>(s.low)), high = splat<W>(static_cast<T>(s.high));
  const Buffer* target = s.store >= 0 ? &view.buffer(s.store) : nullptr;
  const Buffer* other = OTHER ? &view.buffer(s.other) : nullptr;
  const int vectors = static_cast<int>((tile.channels + W::lanes - 1) / W::lanes);
  for (int v = 0; v < vectors; ++v) {
    const int64_t channel = tile.channel + v * W::lanes;
    const int count = static_cast<int>(std::min<int64_t>(W::lanes, tile.channels - v * W::lanes));
    const V addend = load<V>(s.addend.as<T>() + channel);
    const V shift = load<V>(s.shift.as<T>() + channel);
    V factor{}, left{}, other_left{}, mask{}, rounding{};
    if constexpr (MULTIPLY != Multiply::NONE) factor = load<V>(s.factor.as<T>() + channel);
    if (s.has_left) left = load<V>(s.left.as<T>() + channel);
    if constexpr (OTHER) other_left = load<V>(s.other_left.as<T>() + channel);
    if constexpr (!PLAIN) {
      mask = load<V>(s.mask.as<T>() + channel);
      rounding = load<V>(s.addend_rounding.as<T>() + channel);
    }
    uint8_t* out = nullptr;
    int64_t out_step = 0;
    if (target) {
      const int64_t size = bytes_of(target->storage);
      out_step = target->channels * size;
      out = view.data(s.store) + tile.row * out_step + (s.store_channel + channel) * size;
    }
    const uint8_t* add = nullptr;
    int64_t add_step = 0;
    if constexpr (OTHER) {
      const int64_t size = bytes_of(other->storage);
      add_step = other->channels * size;
      add = view.data(s.other) + tile.row * add_step + channel * size;
    }
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t at = r * PANEL + v * W::lanes;
      V x = from_tile<W, In>(from + at * static_cast<int64_t>(sizeof(In)));
      if constexpr (MULTIPLY == Multiply::SHORT) {
        x = (V)RP_DOT16((I32)addend, (I32)x, (I32)factor);
      } else {
        if constexpr (MULTIPLY == Multiply::FULL) x = times(x, factor);
        if (s.has_left) x = shifted_left(x, left);
        x = plus(x, addend);
      }
      if constexpr (OTHER) {
        x = plus(x, shifted_left(load_stored<W>(*other, add, count), other_left));
        add += add_step;
      }
      if constexpr (!PLAIN) {
        if (s.correction == Correction::SIGN) x = plus(plus(x, rounding), (x < 0) & mask);
        else if (s.correction == Correction::ODD) x = plus(plus(x, rounding), (x >> shift) & mask);
        else x = plus(x, rounding);
      }
      x = x >> shift;
      if constexpr (PLAIN) {
        x = x < low ? low : x;
        x = x > high ? high : x;
      } else if (s.limit == Limit::CLAMP) {
        x = x < low ? low : x;
        x = x > high ? high : x;
      } else {
        const int keep = 8 * static_cast<int>(sizeof(T)) - s.wrap_bits;
        if (s.limit == Limit::WRAP_SIGNED) x = (V)((typename W::Unsigned)x << keep) >> keep;
        else x = (V)(((typename W::Unsigned)x << keep) >> keep);
      }
      if (out) {
        store_stored<W>(*target, out, x, count);
        out += out_step;
      }
      if (to) to_tile<W, Out>(to + at * static_cast<int64_t>(sizeof(Out)), x);
    }
  }
}

template <class W, class In, class Out>
void pick_stage(const Stage& s, const Tile& tile, const uint8_t* from, uint8_t* to, const View& view) {
  const bool plain = s.correction == Correction::NONE && s.limit == Limit::CLAMP;
  const bool other = s.other >= 0;
#define RP_STAGE(M)                                                              \
  (plain ? (other ? run_stage<W, In, Out, M, true, true>(s, tile, from, to, view)    \
                  : run_stage<W, In, Out, M, true, false>(s, tile, from, to, view))  \
         : (other ? run_stage<W, In, Out, M, false, true>(s, tile, from, to, view)   \
                  : run_stage<W, In, Out, M, false, false>(s, tile, from, to, view)))
  if (s.multiply == Multiply::NONE) RP_STAGE(Multiply::NONE);
  else if constexpr (W::lanes == LANES) {
    if (s.multiply == Multiply::SHORT) RP_STAGE(Multiply::SHORT);
    else RP_STAGE(Multiply::FULL);
  } else {
    RP_STAGE(Multiply::FULL);
  }
#undef RP_STAGE
}

// A stage that the fast path knows: 32 bits throughout (or, as the first, a plain cast of split sums), rounded by an addend
// alone, clamped, with nothing wider than 16 bits read or written.
RP_INLINE bool is_fast(const Stage& s, bool first, const View& view) {
  if (s.correction != Correction::NONE || s.limit != Limit::CLAMP || s.wide_out) return false;
  if (s.other >= 0 && view.buffer(s.other).storage > Storage::I16) return false;
  if (s.store >= 0 && view.buffer(s.store).storage > Storage::I16) return false;
  if (!s.wide_work) return s.multiply != Multiply::FULL;
  return first && s.from_split;
}

RP_INLINE I32 clamp(I32 x, I32 low, I32 high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

constexpr int MOST_FAST = 8;

// A stage with what depends on the tile worked out.
struct Ready {
  const Stage* stage;
  const uint8_t* other;
  uint8_t* out;
  int64_t other_step, out_step;
  I32 low, high, other_zero, out_zero;
  bool other_short, out_short;
};

RP_INLINE void ready(Ready& p, const Stage& s, const Tile& tile, const View& view) {
  p.stage = &s;
  p.other = nullptr;
  p.out = nullptr;
  if (!s.wide_work) {
    p.low = splat<Narrow>(static_cast<int32_t>(s.low));
    p.high = splat<Narrow>(static_cast<int32_t>(s.high));
  }
  if (s.other >= 0) {
    const Buffer& b = view.buffer(s.other);
    p.other_short = b.storage == Storage::I16;
    p.other_step = b.channels << p.other_short;
    p.other = view.data(s.other) + tile.row * p.other_step + (tile.channel << p.other_short);
    p.other_zero = splat<Narrow>(b.zero);
  }
  if (s.store >= 0) {
    const Buffer& b = view.buffer(s.store);
    p.out_short = b.storage == Storage::I16;
    p.out_step = b.channels << p.out_short;
    p.out = view.data(s.store) + tile.row * p.out_step + ((s.store_channel + tile.channel) << p.out_short);
    p.out_zero = splat<Narrow>(b.zero);
  }
}

// The cast of a sum that is split at `split` (see tile_product): floor((high * 2**split + low + addend) / 2**shift) for
// shifts of at least split, in 32 bits throughout.
RP_INLINE I32 narrowed(const Stage& s, const uint8_t* tile, int split, int64_t channel, I32 low, I32 high) {
  const U32 sum_low = load<U32>(tile);
  const I32 sum_high = load<I32>(tile + SPLIT_PLANE);
  const U32 below = sum_low - ((U32)sum_high << split) + load<U32>(s.addend_low.as<uint32_t>() + channel);
  const I32 whole = plus(plus(sum_high, load<I32>(s.addend_high.as<int32_t>() + channel)), (I32)(below >> split));
  return clamp(whole >> load<I32>(s.shift_high.as<int32_t>() + channel), low, high);
}

// The whole chain on one column of vectors at a time, ROWS of them in registers. Rows beyond the tile's hold
// whatever was there; they are never written.
void run_fast_chain(const Chain& chain, Tile& tile, const View& view) {
  Ready all[MOST_FAST];
  const int count = static_cast<int>(chain.size());
  for (int i = 0; i < count; ++i) ready(all[i], chain.data()[i], tile, view);
  const int last_row = tile.rows - 1;
  const bool wide = chain.data()->wide_in;
  for (int64_t v = 0; v < tile.channels / LANES; ++v) {
    const int64_t channel = tile.channel + v * LANES;
    I32 x[ROWS];
    if (wide) {
      const Stage& s = *all[0].stage;
      const I32 low = splat<Narrow>(static_cast<int32_t>(s.low)), high = splat<Narrow>(static_cast<int32_t>(s.high));
      RP_EACH_ROW(x[r] = narrowed(s, tile.data + (r * PANEL + v * LANES) * 4, tile.split, channel, low, high));
    } else {
      RP_EACH_ROW(x[r] = load<I32>(tile.data + (r * PANEL + v * LANES) * 4));
    }
    for (int i = 0; i < count; ++i) {
      const Ready& p = all[i];
      const Stage& s = *p.stage;
      if (!s.wide_work) {
        const I32 addend = load<I32>(s.addend.as<int32_t>() + channel);
        const I32 shift = load<I32>(s.shift.as<int32_t>() + channel);
        if (s.multiply == Multiply::SHORT) {
          const I32 factor = load<I32>(s.factor.as<int32_t>() + channel);
          RP_EACH_ROW(x[r] = RP_DOT16(addend, x[r], factor));
        } else if (s.has_left) {
          const I32 left = load<I32>(s.left.as<int32_t>() + channel);
          RP_EACH_ROW(x[r] = plus(shifted_left(x[r], left), addend));
        } else {
          RP_EACH_ROW(x[r] = plus(x[r], addend));
        }
        if (p.other) {
          const I32 left = load<I32>(s.other_left.as<int32_t>() + channel);
          if (p.other_short) {
            const uint8_t* from = p.other + v * LANES * 2;
            RP_EACH_ROW(x[r] = plus(x[r], shifted_left(RP_LOAD16(from + std::min<int>(r, last_row) * p.other_step), left)));
          } else {
            const uint8_t* from = p.other + v * LANES;
            RP_EACH_ROW(x[r] =
                plus(x[r], shifted_left(RP_LOAD8(from + std::min<int>(r, last_row) * p.other_step) - p.other_zero, left)));
          }
        }
        const I32 low = p.low, high = p.high;
        RP_EACH_ROW(x[r] = clamp(x[r] >> shift, low, high));
      }
      if (p.out && p.out_short) {
        uint8_t* out = p.out + v * LANES * 2;
        RP_EACH_ROW(if (r <= last_row) RP_STORE16(out + r * p.out_step, x[r]));
      } else if (p.out) {
        uint8_t* out = p.out + v * LANES;
        const I32 zero = p.out_zero;
        RP_EACH_ROW(if (r <= last_row) RP_STORE8(out + r * p.out_step, plus(x[r], zero)));
      }
    }
  }
}
// Split sums to 64 bits.
void join(Tile& tile) {
  for (int i = 0; i < ROWS * PANEL; ++i) {
    const int64_t high = static_cast<int64_t>(load<int32_t>(tile.data + SPLIT_PLANE + 4 * i)) * (int64_t{1} << tile.split);
    const uint32_t low = load<uint32_t>(tile.data + 4 * i) - static_cast<uint32_t>(high);
    store<int64_t>(tile.spare + 8 * i, high + low);
  }
  std::memcpy(tile.data, tile.spare, sizeof tile.data);
}

// Runs every stage; the last one's result goes to its buffer only.
void run_chain(const Chain& chain, Tile& tile, const View& view) {
  bool fast = tile.channels % LANES == 0 && chain.size() <= MOST_FAST;
  for (const Stage& s : chain) fast = fast && is_fast(s, &s == chain.data(), view);
  if (fast) return run_fast_chain(chain, tile, view);
  if (tile.split) join(tile);
  uint8_t* from = tile.data;
  uint8_t* other = tile.spare;
  for (const Stage& s : chain) {
    uint8_t* to = s.wide_in == s.wide_out ? from : other;
    uint8_t* written = &s == &chain.back() ? nullptr : to;
    if (!s.wide_work) pick_stage<Narrow, int32_t, int32_t>(s, tile, from, written, view);
    else if (s.wide_in && s.wide_out) pick_stage<Wide, int64_t, int64_t>(s, tile, from, written, view);
    else if (s.wide_in) pick_stage<Wide, int64_t, int32_t>(s, tile, from, written, view);
    else if (s.wide_out) pick_stage<Wide, int32_t, int64_t>(s, tile, from, written, view);
    else pick_stage<Wide, int32_t, int32_t>(s, tile, from, written, view);
    if (to != from) std::swap(from, other);
  }
}

// ------------------------------------------------------------------------------------------- convolution

struct Dot16 {
  static RP_INLINE I32 dot(I32 a, I32 x, I32 w) { return RP_DOT16(a, x, w); }
};
#ifdef RP_DOT8
struct Dot8 {
  static RP_INLINE I32 dot(I32 a, I32 x, I32 w) { return RP_DOT8(a, x, w); }
};
#else
using Dot8 = Dot16;  // never asked for: byte_dot is false
#endif

// Where each tap of each output pixel row..row+rows reads: pointers[tap * ROWS + r].
void find_taps(const Conv& conv, const View& view, int64_t row, int rows, int64_t source_channel,
               const uint8_t** pointers) {
  const Window& w = conv.window;
  const int64_t size = conv.bytes ? 1 : 2, pixel = w.channels * size;
  const int64_t width = conv.rows ? view.buffer(conv.padded).pixels / w.height : w.width;
  const int64_t taps_x = conv.rows ? 1 : w.kernel_x, left = conv.rows ? 0 : w.left;
  const uint8_t* source = view.data(conv.rows ? conv.padded : conv.source) + source_channel * size;
  int64_t image = row / (w.out_height * w.out_width), inside = row % (w.out_height * w.out_width);
  int64_t out_y = inside / w.out_width, out_x = inside % w.out_width;
  for (int r = 0; r < ROWS; ++r) {
    const int64_t y0 = out_y * w.stride_y - w.top, x0 = out_x * w.stride_x - left;
    const uint8_t* start = source + image * w.height * width * pixel;
    const bool whole = y0 >= 0 && y0 + (w.kernel_y - 1) * w.dilation_y < w.height && x0 >= 0 &&
                       x0 + (taps_x - 1) * w.dilation_x < width;
    const uint8_t** pointer = pointers + r;
    for (int64_t ky = 0; ky < w.kernel_y; ++ky) {
      const int64_t y = y0 + ky * w.dilation_y;
      const uint8_t* line = start + (y * width + x0) * pixel;
      for (int64_t kx = 0; kx < taps_x; ++kx, pointer += ROWS) {
        const int64_t x = x0 + kx * w.dilation_x;
        const bool reads = whole || (y >= 0 && y < w.height && x >= 0 && x < width);
        *pointer = reads ? line + kx * w.dilation_x * pixel : conv.zeros.data();
      }
    }
    if (r + 1 >= rows) continue;  // the last pixel again
    if (++out_x == w.out_width) {
      out_x = 0;
      if (++out_y == w.out_height) out_y = 0, ++image;
    }
  }
}

// Asks for the lines that the chain will read and write while the product is computed.
void prefetch(const Chain& chain, const Tile& tile, const View& view) {
  const auto lines = [&]<int WRITE>(std::integral_constant<int, WRITE>, int index, int64_t channel) {
    const Buffer& b = view.buffer(index);
    const int64_t size = bytes_of(b.storage), step = b.channels * size;
    const uint8_t* p = view.data(index) + tile.row * step + channel * size;
    for (int r = 0; r < tile.rows; ++r, p += step)
      for (int64_t byte = 0; byte < tile.channels * size; byte += 64) __builtin_prefetch(p + byte, WRITE, 3);
  };
  for (const Stage& s : chain) {
    if (s.other >= 0) lines(std::integral_constant<int, 0>{}, s.other, tile.channel);
    if (s.store >= 0) lines(std::integral_constant<int, 1>{}, s.store, s.store_channel + tile.channel);
  }
}

#ifndef RP_TILES  // else the includer has its own

// R output pixels times N vectors of output channels, over all segments of a panel.
//
// A sum that 32 bits do not hold is kept in two planes: its low 32 bits, and the sum over the blocks of their values
// without the last `split` bits. A block loses less than 2**split there, so for up to 2**(32 - split) blocks the sum is
// high * 2**split + (low - high * 2**split modulo 2**32).
template <class Dot, int R, int N, bool WIDE>
void tile_product(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  I32 sums[R * N];
  const uint8_t* weights = panel.weights.data();
  RP_EACH(i, R * N, sums[i] = load<I32>(panel.start.data() + i % N * sizeof(I32)));
  bool first = true;
  const Segment* const end = panel.segments.data() + panel.segments.size();
  for (const Segment* segment = panel.segments.data(); segment != end; ++segment) {
    const uint8_t* row[R];
    RP_EACH(r, R, row[r] = pointers[segment->tap * ROWS + r] + 4 * segment->start);
    const int64_t units = segment->units;
    for (int64_t k = 0; k < units; ++k) {
      I32 w[N];
      RP_EACH(n, N, w[n] = load<I32>(weights + n * sizeof(I32)));
      weights += N * sizeof(I32);
      RP_EACH(r, R, {
        const I32 x = splat<Narrow>(load<int32_t>(row[r] + 4 * k));
        RP_EACH(n, N, sums[r * N + n] = Dot::dot(sums[r * N + n], x, w[n]));
      });
    }
    if constexpr (WIDE) {
      if (segment->flush) {
        const int split = tile.split;
        if (first) {
          RP_EACH(i, R * N, {
            uint8_t* low = tile.data + (i / N * PANEL + i % N * LANES) * 4;
            store(low, sums[i]);
            store(low + SPLIT_PLANE, sums[i] >> split);
            sums[i] = I32{};
          });
        } else {
          RP_EACH(i, R * N, {
            uint8_t* low = tile.data + (i / N * PANEL + i % N * LANES) * 4;
            store(low, load<U32>(low) + (U32)sums[i]);
            store(low + SPLIT_PLANE, plus(load<I32>(low + SPLIT_PLANE), sums[i] >> split));
            sums[i] = I32{};
          });
        }
        first = false;
      }
    }
  }
  if constexpr (!WIDE) RP_EACH(i, R * N, store(tile.data + (i / N * PANEL + i % N * LANES) * 4, sums[i]));
}

template <class Dot, bool WIDE, int R>
void product_of_rows(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  switch (panel.vectors) {
    case 1: return tile_product<Dot, R, 1, WIDE>(panel, pointers, tile);
    case 2: return tile_product<Dot, R, std::min(2, VECTORS), WIDE>(panel, pointers, tile);
    case 3: return tile_product<Dot, R, std::min(3, VECTORS), WIDE>(panel, pointers, tile);
    default: return tile_product<Dot, R, std::min(4, VECTORS), WIDE>(panel, pointers, tile);
  }
}

template <class Dot, bool WIDE>
void product(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  if (tile.rows > ROWS / 2) product_of_rows<Dot, WIDE, ROWS>(panel, pointers, tile);
  else if (tile.rows > 1) product_of_rows<Dot, WIDE, ROWS / 2>(panel, pointers, tile);
  else product_of_rows<Dot, WIDE, 1>(panel, pointers, tile);
}

void conv(const Conv& conv, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end,
          int64_t panel_begin, int64_t panel_end) {
  const Bytes table(conv.taps * ROWS * BLOCK * static_cast<int64_t>(sizeof(void*)));
  const uint8_t** pointers = table.as<const uint8_t*>();
  Tile tile;
  tile.split = conv.split;
  for (int64_t block = row_begin; block < row_end; block += BLOCK * ROWS) {
    int64_t source_channel = -1;
    for (int64_t p = panel_begin; p < panel_end; ++p) {
      const Panel& panel = conv.panels[static_cast<std::size_t>(p)];
      for (int64_t t = 0; t < BLOCK; ++t) {
        const int64_t row = block + t * ROWS;
        if (row >= row_end) break;
        const uint8_t** own = pointers + t * conv.taps * ROWS;
        tile.rows = static_cast<int>(std::min<int64_t>(ROWS, row_end - row));
        if (panel.source_channel != source_channel)
          find_taps(conv, view, row, tile.rows, panel.source_channel, own);
        tile.row = row;
        tile.channel = panel.channel;
        tile.channels = panel.channels;
        prefetch(chain, tile, view);
        if (conv.bytes) product<Dot8, false>(panel, own, tile);
        else if (conv.wide) product<Dot16, true>(panel, own, tile);
        else product<Dot16, false>(panel, own, tile);
        run_chain(chain, tile, view);
      }
      source_channel = panel.source_channel;
    }
  }
}

#endif  // RP_TILES

// --------------------------------------------------------------------------- depthwise, pooling, elementwise

// Calls body(source pixel or -1 if outside, tap) for every tap of an output pixel.
template <class Body>
RP_INLINE void each_tap(const Window& w, int64_t index, Body body) {
  const int64_t image = index / (w.out_height * w.out_width), inside = index % (w.out_height * w.out_width);
  const int64_t y0 = inside / w.out_width * w.stride_y - w.top;
  const int64_t x0 = inside % w.out_width * w.stride_x - w.left;
  for (int64_t ky = 0; ky < w.kernel_y; ++ky)
    for (int64_t kx = 0; kx < w.kernel_x; ++kx) {
      const int64_t y = y0 + ky * w.dilation_y, x = x0 + kx * w.dilation_x;
      if (y >= 0 && y < w.height && x >= 0 && x < w.width)
        body((image * w.height + y) * w.width + x, ky * w.kernel_x + kx);
    }
}

template <class W, class Fill>
RP_INLINE void fill_tiles(int64_t channels, int64_t row_begin, int64_t row_end, const Chain& chain, const View& view,
                          Fill fill) {
  Tile tile;
  tile.split = 0;
  for (int64_t row = row_begin; row < row_end; row += ROWS) {
    tile.row = row;
    tile.rows = static_cast<int>(std::min<int64_t>(ROWS, row_end - row));
    for (int64_t c = 0; c < channels; c += PANEL) {
      tile.channel = c;
      tile.channels = std::min<int64_t>(PANEL, channels - c);
      for (int r = 0; r < tile.rows; ++r)
        for (int64_t v = 0; v * W::lanes < tile.channels; ++v) {
          const int count = static_cast<int>(std::min<int64_t>(W::lanes, tile.channels - v * W::lanes));
          uint8_t* at = tile.data + (r * PANEL + v * W::lanes) * static_cast<int64_t>(sizeof(typename W::T));
          store(at, fill(row + r, c + v * W::lanes, count));
        }
      run_chain(chain, tile, view);
    }
  }
}

template <class W>
void depthwise_rows(const Depthwise& d, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  const Buffer& b = view.buffer(d.source);
  const uint8_t* source = view.data(d.source);
  const int64_t size = bytes_of(b.storage);
  fill_tiles<W>(b.channels, row_begin, row_end, chain, view, [&](int64_t row, int64_t channel, int count) {
    typename W::V sum{};
    each_tap(d.window, row, [&](int64_t pixel, int64_t tap) {
      const auto x = load_stored<W>(b, source + (pixel * b.channels + channel) * size, count);
      sum += x * load<typename W::V>(d.weights.as<typename W::T>() + tap * d.padded_channels + channel);
    });
    return sum;
  });
}

void depthwise(const Depthwise& d, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  if (d.wide) depthwise_rows<Wide>(d, chain, view, row_begin, row_end);
  else depthwise_rows<Narrow>(d, chain, view, row_begin, row_end);
}

// The largest of each window where it lies, without widening: for a result that is stored as its source is.
template <class T>
void max_in_place(const Pool& p, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  typedef T V __attribute__((vector_size(4 * RP_LANES)));
  constexpr int64_t WIDTH = sizeof(V);
  const int64_t pixel_bytes = view.buffer(p.source).channels * static_cast<int64_t>(sizeof(T));
  const uint8_t* source = view.data(p.source);
  uint8_t* out = view.data(chain.data()->store) + row_begin * pixel_bytes;
  for (int64_t row = row_begin; row < row_end; ++row, out += pixel_bytes)
    for (int64_t byte = 0; byte < pixel_bytes; byte += WIDTH) {
      const int64_t count = std::min(WIDTH, pixel_bytes - byte);
      V most = V{} + std::numeric_limits<T>::min();
      each_tap(p.window, row, [&](int64_t pixel, int64_t) {
        const V x = load_part<V>(source + pixel * pixel_bytes + byte, static_cast<std::size_t>(count));
        most = most > x ? most : x;
      });
      if (count == WIDTH) store(out + byte, most);
      else std::memcpy(out + byte, &most, static_cast<std::size_t>(count));
    }
}

template <class W>
void pool_rows(const Pool& p, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  using V = typename W::V;
  const Buffer& b = view.buffer(p.source);
  const uint8_t* source = view.data(p.source);
  const int64_t size = bytes_of(b.storage);
  const auto at = [&](int64_t pixel, int64_t channel, int count) {
    return load_stored<W>(b, source + (pixel * b.channels + channel) * size, count);
  };
  if (p.pooling == Pooling::NONE) fill_tiles<W>(b.channels, row_begin, row_end, chain, view, at);
  else if (p.pooling == Pooling::SUM)
    fill_tiles<W>(b.channels, row_begin, row_end, chain, view, [&](int64_t row, int64_t channel, int count) {
      V sum{};
      each_tap(p.window, row, [&](int64_t pixel, int64_t) { sum += at(pixel, channel, count); });
      return sum;
    });
  else
    fill_tiles<W>(b.channels, row_begin, row_end, chain, view, [&](int64_t row, int64_t channel, int count) {
      V most = splat<W>(std::numeric_limits<typename W::T>::min());
      each_tap(p.window, row, [&](int64_t pixel, int64_t) {
        const V x = at(pixel, channel, count);
        most = most > x ? most : x;
      });
      return most;
    });
}

void pool(const Pool& p, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  if (p.pooling == Pooling::MAX && chain.size() == 1 && chain.data()->nothing && chain.data()->store >= 0) {
    const Buffer &from = view.buffer(p.source), &to = view.buffer(chain.data()->store);
    const bool alike = from.storage == to.storage && from.zero == to.zero && from.channels == to.channels;
    if (alike && from.storage == Storage::U8) return max_in_place<uint8_t>(p, chain, view, row_begin, row_end);
    if (alike && from.storage == Storage::I16) return max_in_place<int16_t>(p, chain, view, row_begin, row_end);
  }
  if (p.wide) pool_rows<Wide>(p, chain, view, row_begin, row_end);
  else pool_rows<Narrow>(p, chain, view, row_begin, row_end);
}

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

int64_t peak(bool bytes, int64_t rounds) {
#ifdef RP_DOT8
  if (bytes) return 4 * peak_of<Dot8>(rounds);
#endif
  (void)bytes;  // bytes are multiplied as 16 bits
  return 2 * peak_of<Dot16>(rounds);
}

}  // namespace
}  // namespace RP_NAMESPACE
}  // namespace radixpoint
