// Convolutions and fully connected layers, tile by tile. Included by kernels_source.hpp, in its namespace, once for every instruction set.

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
  if (conv.plain) {
    const uint8_t* start = view.data(conv.source) + source_channel * size;
    for (int r = 0; r < ROWS; ++r) pointers[r] = start + (row + std::min(r, rows - 1)) * pixel;
    return;
  }
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
void tile_product(const Panel& panel, const uint8_t* const* pointers, uint8_t* data, int split) {
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
        if (first) {
          RP_EACH(i, R * N, {
            uint8_t* low = data + (i / N * PANEL + i % N * LANES) * 4;
            store(low, sums[i]);
            store(low + SPLIT_PLANE, sums[i] >> split);
            sums[i] = I32{};
          });
        } else {
          RP_EACH(i, R * N, {
            uint8_t* low = data + (i / N * PANEL + i % N * LANES) * 4;
            store(low, load<U32>(low) + (U32)sums[i]);
            store(low + SPLIT_PLANE, plus(load<I32>(low + SPLIT_PLANE), sums[i] >> split));
            sums[i] = I32{};
          });
        }
        first = false;
      }
    }
  }
  if constexpr (!WIDE) RP_EACH(i, R * N, store(data + (i / N * PANEL + i % N * LANES) * 4, sums[i]));
}

#ifdef RP_ADD16
// The same of 8-bit operands, of which runs of units are added in 16 bits before they are widened. (With half the
// rows, both kinds of sums stay in registers, and weights are loaded twice: that was slower.)
template <int R, int N>
void tile_product_in_runs(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  I32 shorts[R * N];
  const uint8_t* weights = panel.weights.data();
  RP_EACH(i, R * N, {
    store(tile.data + (i / N * PANEL + i % N * LANES) * 4, load<I32>(panel.start.data() + i % N * sizeof(I32)));
    shorts[i] = I32{};
  });
  const uint8_t* run = panel.runs.data();
  int64_t left = *run;
  const Segment* const end = panel.segments.data() + panel.segments.size();
  for (const Segment* segment = panel.segments.data(); segment != end; ++segment) {
    const uint8_t* row[R];
    RP_EACH(r, R, row[r] = pointers[segment->tap * ROWS + r] + 4 * segment->start);
    for (int64_t k = 0; k < segment->units;) {
      const int64_t stop = std::min<int64_t>(segment->units, k + left);
      left -= stop - k;
      for (; k < stop; ++k) {
        I32 w[N];
        RP_EACH(n, N, w[n] = load<I32>(weights + n * sizeof(I32)));
        weights += N * sizeof(I32);
        RP_EACH(r, R, {
          const I32 x = splat<Narrow>(load<int32_t>(row[r] + 4 * k));
          RP_EACH(n, N, shorts[r * N + n] = RP_ADD16(shorts[r * N + n], (RP_PAIRS8(x, w[n]))));
        });
      }
      if (left) continue;
      RP_EACH(i, R * N, {
        uint8_t* sum = tile.data + (i / N * PANEL + i % N * LANES) * 4;
        store(sum, plus(load<I32>(sum), RP_WIDEN16(shorts[i])));
        shorts[i] = I32{};
      });
      left = *++run;
    }
  }
}

template <int R>
void rows_in_runs(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  if (panel.vectors == 1) tile_product_in_runs<R, 1>(panel, pointers, tile);
  else tile_product_in_runs<R, VECTORS>(panel, pointers, tile);
}

void product_in_runs(const Panel& panel, const uint8_t* const* pointers, Tile& tile) {
  static_assert(VECTORS <= 2);
  if (tile.rows > ROWS / 2) rows_in_runs<ROWS>(panel, pointers, tile);
  else if (tile.rows > 1) rows_in_runs<ROWS / 2>(panel, pointers, tile);
  else rows_in_runs<1>(panel, pointers, tile);
}
#endif

template <class Dot, bool WIDE, int R>
void product_of_rows(const Panel& panel, const uint8_t* const* pointers, uint8_t* data, int split) {
  switch (panel.vectors) {
    case 1: return tile_product<Dot, R, 1, WIDE>(panel, pointers, data, split);
    case 2: return tile_product<Dot, R, std::min(2, VECTORS), WIDE>(panel, pointers, data, split);
    case 3: return tile_product<Dot, R, std::min(3, VECTORS), WIDE>(panel, pointers, data, split);
    default: return tile_product<Dot, R, std::min(4, VECTORS), WIDE>(panel, pointers, data, split);
  }
}

// `data` gets the sums as a tile holds them; `split` is looked at if they are wide.
template <class Dot, bool WIDE>
void product(const Panel& panel, const uint8_t* const* pointers, int rows, uint8_t* data, int split) {
  if (rows > ROWS / 2) product_of_rows<Dot, WIDE, ROWS>(panel, pointers, data, split);
  else if (rows > 1) product_of_rows<Dot, WIDE, ROWS / 2>(panel, pointers, data, split);
  else product_of_rows<Dot, WIDE, 1>(panel, pointers, data, split);
}

void conv(const Conv& conv, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end,
          int64_t panel_begin, int64_t panel_end) {
  const Bytes table(conv.taps * ROWS * BLOCK * static_cast<int64_t>(sizeof(void*)));
  const uint8_t** pointers = table.as<const uint8_t*>();
  Tile tile;
  Route route;
  tile.split = conv.split;
  const bool ahead = conv.depth > 128;  // else the lines would not be there in time
  for (int64_t block = row_begin; block < row_end; block += BLOCK * ROWS) {
    int64_t source_channel = -1;
    for (int64_t p = panel_begin; p < panel_end; ++p) {
      const Panel& panel = conv.panels[static_cast<std::size_t>(p)];
      prepare(route, chain, panel.channel, panel.channels, view);
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
        if (ahead) prefetch(chain, tile, view);
#ifdef RP_ADD16
        if (conv.bytes && panel.runs.front()) product_in_runs(panel, own, tile);
        else
#endif
        if (conv.bytes) product<Dot8, false>(panel, own, tile.rows, tile.data, 0);
        else if (conv.wide) product<Dot16, true>(panel, own, tile.rows, tile.data, tile.split);
        else product<Dot16, false>(panel, own, tile.rows, tile.data, 0);
        run_chain(route, chain, tile, view);
      }
      source_channel = panel.source_channel;
    }
  }
}

#endif  // RP_TILES
