// Stages: what happens to a tile of integers before it is written. Included by kernels_source.hpp, in its namespace, once for every instruction set.

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

// Where a stage's other tensor lies for an output pixel.
RP_INLINE int64_t other_row(const Stage& s, const View& view, int64_t row) {
  if (!s.per_image) return row;
  return row / (view.rows / view.batch);
}

RP_INLINE int64_t limited(const Stage& s, int64_t x) {
  if (s.limit == Limit::CLAMP) return x < s.low ? s.low : x > s.high ? s.high : x;
  const int keep = 64 - s.wrap_bits;
  if (s.limit == Limit::WRAP_SIGNED) return static_cast<int64_t>(static_cast<uint64_t>(x) << keep) >> keep;
  return static_cast<int64_t>((static_cast<uint64_t>(x) << keep) >> keep);
}

// One rounding of a quotient: down, and one up where the mode says so.
RP_INLINE int64_t divided(const Stage& s, int64_t x) {
  const int64_t n = static_cast<int64_t>(static_cast<uint64_t>(x) << s.up), d = s.divisor;
  int64_t down = n / d, rest = n % d;
  if (rest < 0) --down, rest += d;
  const int64_t twice = 2 * rest;
  bool more = false;
  switch (s.rounding) {
    case Rounding::TRN: break;
    case Rounding::TRN_ZERO: more = n < 0 && rest; break;
    case Rounding::RND: more = twice >= d; break;
    case Rounding::RND_MIN_INF: more = twice > d; break;
    case Rounding::RND_INF: more = twice > d || (twice == d && n > 0); break;
    case Rounding::RND_ZERO: more = twice > d || (twice == d && n < 0); break;
    case Rounding::RND_CONV: more = twice > d || (twice == d && (down & 1)); break;
  }
  return limited(s, down + more);
}

// A table or a division, an integer at a time.
template <class In, class Out>
void run_single(const Stage& s, const Tile& tile, const uint8_t* from, uint8_t* to, const View& view) {
  const Buffer* target = s.store >= 0 ? &view.buffer(s.store) : nullptr;
  const int32_t* table = s.table.as<int32_t>() - s.first;
  for (int r = 0; r < tile.rows; ++r)
    for (int64_t c = 0; c < tile.channels; ++c) {
      const int64_t at = r * PANEL + c;
      const int64_t x = load<In>(from + at * static_cast<int64_t>(sizeof(In)));
      const int64_t y = s.kind == Kind::LOOKUP ? table[x] : divided(s, x);
      if (to) store<Out>(to + at * static_cast<int64_t>(sizeof(Out)), static_cast<Out>(y));
      if (!target) continue;
      const int64_t place = (tile.row + r) * target->channels + s.store_channel + tile.channel + c;
      uint8_t* out = view.data(s.store) + place * bytes_of(target->storage);
      switch (target->storage) {
        case Storage::U8: *out = static_cast<uint8_t>(y + target->zero); break;
        case Storage::I16: store<int16_t>(out, static_cast<int16_t>(y)); break;
        case Storage::I32: store<int32_t>(out, static_cast<int32_t>(y)); break;
        default: store<int64_t>(out, y);
      }
    }
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
    if constexpr (MULTIPLY == Multiply::FULL || MULTIPLY == Multiply::SHORT) factor = load<V>(s.factor.as<T>() + channel);
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
      add = view.data(s.other) + channel * size;
    }
    for (int r = 0; r < tile.rows; ++r) {
      const int64_t at = r * PANEL + v * W::lanes;
      V x = from_tile<W, In>(from + at * static_cast<int64_t>(sizeof(In)));
      if constexpr (MULTIPLY == Multiply::SHORT) {
        x = (V)RP_DOT16((I32)addend, (I32)x, (I32)factor);
      } else {
        if constexpr (MULTIPLY == Multiply::FULL) x = times(x, factor);
        if constexpr (MULTIPLY == Multiply::TENSOR)
          x = times(x, load_stored<W>(*other, add + other_row(s, view, tile.row + r) * add_step, count));
        if (s.has_left) x = shifted_left(x, left);
        x = plus(x, addend);
      }
      if constexpr (OTHER && MULTIPLY != Multiply::TENSOR)
        x = plus(x, shifted_left(load_stored<W>(*other, add + (tile.row + r) * add_step, count), other_left));
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
  if (s.kind != Kind::LINEAR) return run_single<In, Out>(s, tile, from, to, view);
  if (s.multiply == Multiply::NONE) RP_STAGE(Multiply::NONE);
  else if (s.multiply == Multiply::TENSOR) {
    if (plain) run_stage<W, In, Out, Multiply::TENSOR, true, true>(s, tile, from, to, view);
    else run_stage<W, In, Out, Multiply::TENSOR, false, true>(s, tile, from, to, view);
  }
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
  if (s.kind == Kind::DIVIDE) return false;
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

RP_INLINE I32 looked_up(const int32_t* table, I32 x) {
  I32 y{};
  for (int i = 0; i < LANES; ++i) y[i] = table[x[i]];
  return y;
}

// A stage with what depends on the channels worked out; `other` and `out` are of the first output pixel.
struct Ready {
  const Stage* stage;
  const uint8_t* other;
  uint8_t* out;
  int64_t other_step, out_step;
  I32 low, high, other_zero, out_zero;
  bool other_short, out_short;
  bool below, above;  // whether an integer of 16 bits may be beyond the limits
};

RP_INLINE void ready(Ready& p, const Stage& s, int64_t channel, const View& view) {
  p.stage = &s;
  p.other = nullptr;
  p.out = nullptr;
  p.low = splat<Narrow>(static_cast<int32_t>(s.low));
  p.high = splat<Narrow>(static_cast<int32_t>(s.high));
  if (s.other >= 0) {
    const Buffer& b = view.buffer(s.other);
    p.other_short = b.storage == Storage::I16;
    p.other_step = b.channels << p.other_short;
    p.other = view.data(s.other) + (channel << p.other_short);
    p.other_zero = splat<Narrow>(b.zero);
  }
  if (s.store >= 0) {
    const Buffer& b = view.buffer(s.store);
    p.out_short = b.storage == Storage::I16;
    p.out_step = b.channels << p.out_short;
    p.out = view.data(s.store) + ((s.store_channel + channel) << p.out_short);
    p.out_zero = splat<Narrow>(b.zero);
  }
}

// How a chain is run: stage by stage over a tile in memory (STEPS); on a few vectors in registers, in 32 bits (FAST); or so as
// far as the first result, and in 16 bits from there (PACKED).
enum class Way { STEPS, FAST, PACKED };

struct Route {
  Ready all[MOST_FAST];
  int64_t places;  // output pixels of an image
  int count;
  Way way;
};

#ifdef RP_PACK
// Integers of 16 bits, of two vectors; RP_PACK says in which order.
typedef int16_t I16P __attribute__((vector_size(4 * RP_LANES)));

// Whether a stage that is_fast gives 16 bits, and, unless it is the first, can work from 16 bits. Those it gets, since every
// stage before it has passed here.
RP_INLINE bool is_packed(const Stage& s, bool first) {
  using Limits = std::numeric_limits<int16_t>;
  const bool fits = s.kind == Kind::LINEAR && s.low >= Limits::min() && s.high <= Limits::max();
  return fits && (first ? s.multiply != Multiply::TENSOR : s.in_pairs);
}

// Which limits an integer may be beyond, given those of the stage before: the others are not looked at.
RP_INLINE void look_at_limits(Route& route) {
  constexpr int64_t least = std::numeric_limits<int16_t>::min(), most = std::numeric_limits<int16_t>::max();
  for (int i = 0; i < route.count; ++i) {
    Ready& p = route.all[i];
    const Stage& s = *p.stage;
    int64_t low = least, high = most;
    if (i > 0 && s.places >= 0) {
      const int64_t addend = *s.addend.as<int32_t>();
      low = (route.all[i - 1].stage->low + addend) >> s.places;
      high = std::min(route.all[i - 1].stage->high + addend, most) >> s.places;
    }
    p.below = low < s.low;
    p.above = high > s.high;
  }
}
#endif

RP_INLINE void prepare(Route& route, const Chain& chain, int64_t channel, int64_t channels, const View& view) {
  route.count = static_cast<int>(chain.size());
  route.places = view.rows / view.batch;
  bool fast = channels % LANES == 0 && chain.size() <= MOST_FAST;
  for (const Stage& s : chain) fast = fast && is_fast(s, &s == chain.data(), view);
  route.way = fast ? Way::FAST : Way::STEPS;
  if (!fast) return;
  for (int i = 0; i < route.count; ++i) ready(route.all[i], chain.data()[i], channel, view);
#ifdef RP_PACK
  bool packed = channels % (2 * LANES) == 0;
  for (const Stage& s : chain) packed = packed && is_packed(s, &s == chain.data());
  if (!packed) return;
  route.way = Way::PACKED;
  look_at_limits(route);
#endif
}

// The cast of a sum that is split at `split` (see tile_product): floor((high * 2**split + low + addend) / 2**shift) for
// shifts of at least split, in 32 bits throughout; not yet limited.
RP_INLINE I32 narrowed(const Stage& s, const uint8_t* tile, int split, int64_t channel) {
  const U32 sum_low = load<U32>(tile);
  const I32 sum_high = load<I32>(tile + SPLIT_PLANE);
  const U32 below = sum_low - ((U32)sum_high << split) + load<U32>(s.addend_low.as<uint32_t>() + channel);
  const I32 whole = plus(plus(sum_high, load<I32>(s.addend_high.as<int32_t>() + channel)), (I32)(below >> split));
  return whole >> load<I32>(s.shift_high.as<int32_t>() + channel);
}

// A stage in 32 bits on one column of vectors, ROWS of them in registers; not yet limited. Rows beyond the tile's hold
// whatever was there; they are never written.
RP_INLINE void linear(const Ready& p, const Route& route, const Tile& tile, int64_t v, I32 (&x)[ROWS]) {
  const Stage& s = *p.stage;
  const int last_row = tile.rows - 1;
  const int64_t channel = tile.channel + v * LANES;
  const I32 addend = load<I32>(s.addend.as<int32_t>() + channel);
  const I32 shift = load<I32>(s.shift.as<int32_t>() + channel);
  if (s.multiply == Multiply::SHORT) {
    const I32 factor = load<I32>(s.factor.as<int32_t>() + channel);
    RP_EACH_ROW(x[r] = RP_DOT16(addend, x[r], factor));
  } else if (s.multiply == Multiply::TENSOR) {
    const uint8_t* from = p.other + (v * LANES << p.other_short);
    RP_EACH_ROW({
      const int64_t row = tile.row + std::min<int>(r, last_row);
      const uint8_t* at = from + (s.per_image ? row / route.places : row) * p.other_step;
      x[r] = plus(times(x[r], p.other_short ? RP_LOAD16(at) : RP_LOAD8(at) - p.other_zero), addend);
    });
  } else if (s.has_left) {
    const I32 left = load<I32>(s.left.as<int32_t>() + channel);
    RP_EACH_ROW(x[r] = plus(shifted_left(x[r], left), addend));
  } else {
    RP_EACH_ROW(x[r] = plus(x[r], addend));
  }
  if (p.other && s.multiply != Multiply::TENSOR) {
    const I32 left = load<I32>(s.other_left.as<int32_t>() + channel);
    if (p.other_short) {
      const uint8_t* from = p.other + tile.row * p.other_step + v * LANES * 2;
      RP_EACH_ROW(x[r] = plus(x[r], shifted_left(RP_LOAD16(from + std::min<int>(r, last_row) * p.other_step), left)));
    } else {
      const uint8_t* from = p.other + tile.row * p.other_step + v * LANES;
      RP_EACH_ROW(x[r] =
          plus(x[r], shifted_left(RP_LOAD8(from + std::min<int>(r, last_row) * p.other_step) - p.other_zero, left)));
    }
  }
  RP_EACH_ROW(x[r] = x[r] >> shift);
}

// The sums of one column, and what the first stage makes of those that are split.
RP_INLINE void sums_of(const Route& route, const Tile& tile, int64_t v, I32 (&x)[ROWS]) {
  const Stage& s = *route.all[0].stage;
  const uint8_t* const sums = tile.data + v * LANES * 4;
  if (s.wide_in) RP_EACH_ROW(x[r] = narrowed(s, sums + r * PANEL * 4, tile.split, tile.channel + v * LANES));
  else RP_EACH_ROW(x[r] = load<I32>(sums + r * PANEL * 4));
}

void run_fast_chain(const Route& route, const Tile& tile) {
  const int last_row = tile.rows - 1;
  for (int64_t v = 0; v < tile.channels / LANES; ++v) {
    I32 x[ROWS];
    sums_of(route, tile, v, x);
    for (int i = 0; i < route.count; ++i) {
      const Ready& p = route.all[i];
      const Stage& s = *p.stage;
      if (s.kind == Kind::LOOKUP) {
        const int32_t* table = s.table.as<int32_t>() - s.first;
        RP_EACH_ROW(if (r <= last_row) x[r] = looked_up(table, x[r]));
      } else {
        if (!s.wide_in) linear(p, route, tile, v, x);
        RP_EACH_ROW(x[r] = clamp(x[r], p.low, p.high));
      }
      if (p.out && p.out_short) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES * 2;
        RP_EACH_ROW(if (r <= last_row) RP_STORE16(out + r * p.out_step, x[r]));
      } else if (p.out) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES;
        RP_EACH_ROW(if (r <= last_row) RP_STORE8(out + r * p.out_step, plus(x[r], p.out_zero)));
      }
    }
  }
}

#ifdef RP_PACK
// x and what is added to it, each times a factor of 16 bits, on two columns of vectors.
template <class Other>
RP_INLINE void paired(const Stage& s, int64_t channel, I16P (&x)[ROWS], Other other) {
  const int32_t* const pairs = s.pairs.as<int32_t>() + channel;
  const int32_t* const addend = s.addend.as<int32_t>() + channel;
  const int32_t* const shift = s.shift.as<int32_t>() + channel;
  RP_EACH_ROW({
    const I16P y = other(r);
    const I32 first = RP_DOT16(load<I32>(addend), (I32)RP_PAIRS_FIRST(x[r], y), load<I32>(pairs)) >> load<I32>(shift);
    const I32 second = RP_DOT16(load<I32>(addend + LANES), (I32)RP_PAIRS_SECOND(x[r], y), load<I32>(pairs + LANES)) >>
                       load<I32>(shift + LANES);
    x[r] = RP_PACK(first, second);
  });
}

// Two columns of vectors at a time. Packing limits to 16 bits what the stages give; from then on every operation but a
// dot product takes two columns at once.
void run_packed_chain(const Route& route, const Tile& tile) {
  const int last_row = tile.rows - 1;
  for (int64_t v = 0; v < tile.channels / LANES; v += 2) {
    const int64_t channel = tile.channel + v * LANES;
    I16P x[ROWS];
    {
      I32 first[ROWS], second[ROWS];
      sums_of(route, tile, v, first);
      if (!route.all[0].stage->wide_in) linear(route.all[0], route, tile, v, first);
      sums_of(route, tile, v + 1, second);
      if (!route.all[0].stage->wide_in) linear(route.all[0], route, tile, v + 1, second);
      RP_EACH_ROW(x[r] = RP_PACK(first[r], second[r]));
    }
    for (int i = 0; i < route.count; ++i) {
      const Ready& p = route.all[i];
      const Stage& s = *p.stage;
      if (i > 0 && s.places >= 0) {
        const I16P addend = static_cast<int16_t>(*s.addend.as<int32_t>()) - I16P{};
        RP_EACH_ROW(x[r] = RP_ADD_LIMITED(x[r], addend) >> s.places);
      } else if (i > 0 && !p.other) {
        paired(s, channel, x, [&](auto r) RP_LAMBDA { return x[r]; });  // times 0
      } else if (i > 0 && p.other_short) {
        const uint8_t* from = p.other + tile.row * p.other_step + v * LANES * 2;
        paired(s, channel, x, [&](auto r) RP_LAMBDA {
          return RP_LOAD_PACKED16(from + std::min<int>(r, last_row) * p.other_step);
        });
      } else if (i > 0) {
        const uint8_t* from = p.other + tile.row * p.other_step + v * LANES;
        const I16P zero = static_cast<int16_t>(p.other_zero[0]) - I16P{};
        paired(s, channel, x, [&](auto r) RP_LAMBDA {
          return RP_LOAD_PACKED8(from + std::min<int>(r, last_row) * p.other_step) - zero;
        });
      }
      if (p.below) {
        const I16P low = static_cast<int16_t>(s.low) - I16P{};
        RP_EACH_ROW(x[r] = x[r] < low ? low : x[r]);
      }
      if (p.above) {
        const I16P high = static_cast<int16_t>(s.high) - I16P{};
        RP_EACH_ROW(x[r] = x[r] > high ? high : x[r]);
      }
      if (p.out && p.out_short) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES * 2;
        RP_EACH_ROW(if (r <= last_row) RP_STORE_PACKED16(out + r * p.out_step, x[r]));
      } else if (p.out) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES;
        const I16P zero = static_cast<int16_t>(p.out_zero[0]) - I16P{};
        RP_EACH_ROW(if (r <= last_row) RP_STORE_PACKED8(out + r * p.out_step, x[r] + zero));
      }
    }
  }
}
#endif

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
void run_chain(const Route& route, const Chain& chain, Tile& tile, const View& view) {
#ifdef RP_PACK
  if (route.way == Way::PACKED) return run_packed_chain(route, tile);
#endif
  if (route.way == Way::FAST) return run_fast_chain(route, tile);
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
