// 3x3 convolutions with fewer products. Included by kernels_source.hpp, in its namespace, once for every instruction set.
//
// Winograd's F(2x2, 3x3) as Lavin and Gray give it (Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section
// 4.1): four results Y = A' [(G g G') * (B' d B)] A of a patch d of 4 x 4 operands take 16 products instead of 36. In
// integers, with 2G for G, the same gives 4Y, and every step is a sum or a product modulo 2**32: whatever overflows on the
// way, 4Y is exact if it is within 32 bits. So are the transformed operands and weights, if they are within 16.

#ifndef RP_TILES

typedef uint16_t U16W __attribute__((vector_size(4 * RP_LANES)));
constexpr int64_t DEPTH_STEP = 2 * LANES;  // 16-bit integers in a vector
static_assert(ROWS % 2 == 0, "a square of results is two neighbours in each of two lines");

// Where the 4 x 4 operands of a square of results lie.
void find_patch(const Winograd& op, const View& view, int64_t square, const uint8_t** patch) {
  const Window& w = op.window;
  const int64_t across = op.squares_x(), down = op.squares_y();
  const int64_t image = square / (across * down), inside = square % (across * down);
  const int64_t y0 = inside / across * 2 - w.top, x0 = inside % across * 2 - w.left, pixel = w.channels * 2;
  const uint8_t* source = view.data(op.source) + image * w.height * w.width * pixel;
  for (int64_t i = 0; i < 16; ++i) {
    const int64_t y = y0 + i / 4, x = x0 + i % 4;
    const bool inside_image = y >= 0 && y < w.height && x >= 0 && x < w.width;
    patch[i] = inside_image ? source + (y * w.width + x) * pixel : op.zeros.data();
  }
}

// B' d B of one square, channel by channel, to operands[point * step + channel].
void transform_patch(const uint8_t* const* patch, int64_t depth, uint16_t* operands, int64_t step) {
  for (int64_t c = 0; c < depth; c += DEPTH_STEP) {
    U16W half[16];
    RP_EACH(j, 4, {
      const U16W d0 = load<U16W>(patch[j] + 2 * c), d1 = load<U16W>(patch[4 + j] + 2 * c);
      const U16W d2 = load<U16W>(patch[8 + j] + 2 * c), d3 = load<U16W>(patch[12 + j] + 2 * c);
      half[j] = d0 - d2;
      half[4 + j] = d1 + d2;
      half[8 + j] = d2 - d1;
      half[12 + j] = d1 - d3;
    });
    RP_EACH(i, 4, {
      uint16_t* to = operands + 4 * i * step + c;
      store(to, half[4 * i] - half[4 * i + 2]);
      store(to + step, half[4 * i + 1] + half[4 * i + 2]);
      store(to + 2 * step, half[4 * i + 2] - half[4 * i + 1]);
      store(to + 3 * step, half[4 * i + 1] - half[4 * i + 3]);
    });
  }
}

// A' M A / 4 of one square: the two results of its line `LINE`, one vector of channels, from sums[point * step].
template <int LINE>
RP_INLINE void transform_sums(const uint8_t* sums, int64_t step, uint8_t* left, uint8_t* right) {
  U32 column[4];
  RP_EACH(j, 4, {
    const U32 m1 = load<U32>(sums + (4 + j) * step), m2 = load<U32>(sums + (8 + j) * step);
    if constexpr (LINE == 0) column[j] = load<U32>(sums + j * step) + m1 + m2;
    else column[j] = m1 - m2 - load<U32>(sums + (12 + j) * step);
  });
  store(left, (I32)(column[0] + column[1] + column[2]) >> 2);
  store(right, (I32)(column[1] - column[2] - column[3]) >> 2);
}

// One line of results of squares begin..end, neighbours in one line of squares, through the chain.
template <int LINE>
void finish_line(const Winograd& op, const Route& route, const Chain& chain, const View& view, int64_t square, int64_t count,
                 const uint8_t* sums, int64_t step, Tile& tile) {
  const Window& w = op.window;
  const int64_t across = op.squares_x(), down = op.squares_y();
  const int64_t image = square / (across * down), inside = square % (across * down);
  const int64_t y = inside / across * 2 + LINE, x0 = inside % across * 2;
  if (y >= w.out_height) return;
  const int64_t width = std::min(2 * count, w.out_width - x0);
  for (int64_t x = 0; x < width; x += ROWS) {
    tile.row = (image * w.out_height + y) * w.out_width + x0 + x;
    tile.rows = static_cast<int>(std::min<int64_t>(ROWS, width - x));
    for (int r = 0; r < tile.rows; r += 2)
      for (int64_t v = 0; v * LANES < tile.channels; ++v) {
        uint8_t* to = tile.data + (r * PANEL + v * LANES) * 4;
        transform_sums<LINE>(sums + ((x + r) / 2 * PANEL + v * LANES) * 4, step, to, to + PANEL * 4);
      }
    run_chain(route, chain, tile, view);
  }
}

void winograd(const Winograd& op, const Chain& chain, const View& view, int64_t begin, int64_t end, int64_t panel_begin,
              int64_t panel_end) {
  const int64_t count = end - begin, across = op.squares_x();
  const int64_t depth = (op.window.channels + DEPTH_STEP - 1) / DEPTH_STEP * DEPTH_STEP;
  const int64_t room = (count + ROWS - 1) / ROWS * ROWS;
  const Bytes operands(16 * count * depth * 2);    // [point][square][channel]
  const Bytes sums(16 * room * PANEL * 4);         // [point][square][channel of the panel]
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* patch[16];
    find_patch(op, view, begin + i, patch);
    transform_patch(patch, depth, operands.as<uint16_t>() + i * depth, count * depth);
  }
  Tile tile;
  Route route;
  tile.split = 0;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const Panel* points = op.panels.data() + 16 * p;
    prepare(route, chain, points->channel, points->channels, view);
    tile.channel = points->channel;
    tile.channels = points->channels;
    for (int64_t point = 0; point < 16; ++point)
      for (int64_t i = 0; i < count; i += ROWS) {
        const int rows = static_cast<int>(std::min<int64_t>(ROWS, count - i));
        const uint8_t* pointers[ROWS];
        for (int r = 0; r < ROWS; ++r)
          pointers[r] = operands.data() + (point * count + i + std::min(r, rows - 1)) * depth * 2;
        product<Dot16, false>(points[point], pointers, rows, sums.data() + (point * room + i) * PANEL * 4, 0);
      }
    for (int64_t i = 0; i < count;) {
      const int64_t next = std::min(count, i + across - (begin + i) % across);
      const uint8_t* from = sums.data() + i * PANEL * 4;
      finish_line<0>(op, route, chain, view, begin + i, next - i, from, room * PANEL * 4, tile);
      finish_line<1>(op, route, chain, view, begin + i, next - i, from, room * PANEL * 4, tile);
      i = next;
    }
  }
}

#endif  // RP_TILES
