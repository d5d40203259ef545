// Depthwise convolutions, poolings, and tensors that only pass through stages. Included by kernels_source.hpp, in its namespace, once for every instruction set.

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

// The chain for each panel of channels.
RP_INLINE Bytes routes(int64_t channels, const Chain& chain, const View& view) {
  Bytes kept((channels + PANEL - 1) / PANEL * static_cast<int64_t>(sizeof(Route)));
  for (int64_t c = 0; c < channels; c += PANEL)
    prepare(kept.as<Route>()[c / PANEL], chain, c, std::min<int64_t>(PANEL, channels - c), view);
  return kept;
}

template <class W, class Fill>
RP_INLINE void fill_tiles(int64_t channels, int64_t row_begin, int64_t row_end, const Chain& chain, const View& view,
                          Fill fill) {
  Tile tile;
  tile.split = 0;
  const Bytes kept = routes(channels, chain, view);
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
      run_chain(kept.as<Route>()[c / PANEL], chain, tile, view);
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

// Two taps as pairs of 16-bit integers, channel by channel.
template <bool SHORT>
RP_INLINE I32 pair_of(const uint8_t* first, const uint8_t* second, int64_t channel) {
#ifdef RP_PAIR16
  if constexpr (SHORT) return RP_PAIR16(first + 2 * channel, second + 2 * channel);
  else return RP_PAIR8(first + channel, second + channel);
#else
  if constexpr (SHORT) {
    const U32 low = (U32)RP_LOAD16(first + 2 * channel) & 0xffffu, high = (U32)RP_LOAD16(second + 2 * channel);
    return (I32)(low | (high << 16));
  } else {
    return (I32)((U32)RP_LOAD8(first + channel) | ((U32)RP_LOAD8(second + channel) << 16));
  }
#endif
}

// Sums within 32 bits of operands within 16: pairs of taps by the dot product. A tap outside the image reads zeros.
template <bool SHORT>
void depthwise_pairs(const Depthwise& d, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  const Buffer& b = view.buffer(d.source);
  const uint8_t* source = view.data(d.source);
  const Window& w = d.window;
  const int64_t pixel = b.channels << SHORT, taps = 2 * d.pairs, real = w.kernel_y * w.kernel_x;
  const int64_t reach_y = (w.kernel_y - 1) * w.dilation_y, reach_x = (w.kernel_x - 1) * w.dilation_x;
  const uint8_t* seen[ROWS][2 * Depthwise::MOST_PAIRS];
  int64_t offsets[2 * Depthwise::MOST_PAIRS];
  for (int64_t tap = 0; tap < real; ++tap)
    offsets[tap] = (tap / w.kernel_x * w.dilation_y * w.width + tap % w.kernel_x * w.dilation_x) * pixel;
  for (int r = 0; r < ROWS; ++r)
    for (int64_t tap = real; tap < taps; ++tap) seen[r][tap] = d.zeros.data();
  int64_t image = row_begin / (w.out_height * w.out_width), inside = row_begin % (w.out_height * w.out_width);
  int64_t out_y = inside / w.out_width, out_x = inside % w.out_width;
  Tile tile;
  tile.split = 0;
  const Bytes kept = routes(b.channels, chain, view);
  for (int64_t row = row_begin; row < row_end; row += ROWS) {
    tile.row = row;
    tile.rows = static_cast<int>(std::min<int64_t>(ROWS, row_end - row));
    for (int r = 0; r < ROWS; ++r) {
      const int64_t y0 = out_y * w.stride_y - w.top, x0 = out_x * w.stride_x - w.left;
      const uint8_t* const corner = source + ((image * w.height + y0) * w.width + x0) * pixel;
      if (y0 >= 0 && y0 + reach_y < w.height && x0 >= 0 && x0 + reach_x < w.width) {
        for (int64_t tap = 0; tap < real; ++tap) seen[r][tap] = corner + offsets[tap];
      } else {
        int64_t tap = 0;
        for (int64_t ky = 0; ky < w.kernel_y; ++ky)
          for (int64_t kx = 0; kx < w.kernel_x; ++kx, ++tap) {
            const int64_t y = y0 + ky * w.dilation_y, x = x0 + kx * w.dilation_x;
            const bool there = y >= 0 && y < w.height && x >= 0 && x < w.width;
            seen[r][tap] = there ? corner + offsets[tap] : d.zeros.data();
          }
      }
      if (r + 1 >= tile.rows) continue;  // the last pixel again
      if (++out_x == w.out_width) {
        out_x = 0;
        if (++out_y == w.out_height) out_y = 0, ++image;
      }
    }
    if (++out_x == w.out_width) {
      out_x = 0;
      if (++out_y == w.out_height) out_y = 0, ++image;
    }
    for (int64_t c = 0; c < b.channels; c += PANEL) {
      tile.channel = c;
      tile.channels = std::min<int64_t>(PANEL, b.channels - c);
      for (int64_t v = 0; v * LANES < tile.channels; ++v) {
        const int64_t channel = c + v * LANES;
        const I32 start = load<I32>(d.start.as<int32_t>() + channel);
        I32 sum[ROWS];
        RP_EACH_ROW(sum[r] = start);
        for (int64_t p = 0; p < d.pairs; ++p) {
          const I32 factors = load<I32>(d.paired.as<int32_t>() + p * d.padded_channels + channel);
          RP_EACH_ROW(sum[r] = RP_DOT16(sum[r], (pair_of<SHORT>(seen[r][2 * p], seen[r][2 * p + 1], channel)), factors));
        }
        RP_EACH_ROW(store(tile.data + (r * PANEL + v * LANES) * 4, sum[r]));
      }
      run_chain(kept.as<Route>()[c / PANEL], chain, tile, view);
    }
  }
}

void depthwise(const Depthwise& d, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end) {
  if (d.pairs && view.buffer(d.source).storage == Storage::I16) depthwise_pairs<true>(d, chain, view, row_begin, row_end);
  else if (d.pairs) depthwise_pairs<false>(d, chain, view, row_begin, row_end);
  else if (d.wide) depthwise_rows<Wide>(d, chain, view, row_begin, row_end);
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
