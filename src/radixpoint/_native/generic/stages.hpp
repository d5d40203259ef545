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
};

RP_INLINE void ready(Ready& p, const Stage& s, int64_t channel, const View& view) {
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

// A chain on its way through tiles of the same channels.
struct Route {
  Ready all[MOST_FAST];
  int64_t places;  // output pixels of an image
  int count;
  bool fast;
};

RP_INLINE void prepare(Route& route, const Chain& chain, int64_t channel, int64_t channels, const View& view) {
  route.count = static_cast<int>(chain.size());
  route.places = view.rows / view.batch;
  route.fast = channels % LANES == 0 && chain.size() <= MOST_FAST;
  for (const Stage& s : chain) route.fast = route.fast && is_fast(s, &s == chain.data(), view);
  if (!route.fast) return;
  for (int i = 0; i < route.count; ++i) ready(route.all[i], chain.data()[i], channel, view);
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
void run_fast_chain(const Route& route, Tile& tile) {
  const Ready* const all = route.all;
  const int count = route.count;
  const int last_row = tile.rows - 1;
  const bool wide = all[0].stage->wide_in;
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
      if (s.kind == Kind::LOOKUP) {
        const int32_t* table = s.table.as<int32_t>() - s.first;
        RP_EACH_ROW(if (r <= last_row) x[r] = looked_up(table, x[r]));
      } else if (!s.wide_work) {
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
        const I32 low = p.low, high = p.high;
        RP_EACH_ROW(x[r] = clamp(x[r] >> shift, low, high));
      }
      if (p.out && p.out_short) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES * 2;
        RP_EACH_ROW(if (r <= last_row) RP_STORE16(out + r * p.out_step, x[r]));
      } else if (p.out) {
        uint8_t* out = p.out + tile.row * p.out_step + v * LANES;
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
void run_chain(const Route& route, const Chain& chain, Tile& tile, const View& view) {
  if (route.fast) return run_fast_chain(route, tile);
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
