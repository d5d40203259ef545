// AMX: matrix tiles of 16 x 64 bytes, with AVX-512 VNNI for all the rest. The product of two 16-bit operands is that of
// their halves: (ah * 256 + al) * (bh * 256 + bl), each sum of at most 2**15 byte products within 32 bits.
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RP_NAMESPACE amx
#define RP_ROWS 16
#define RP_TILES
#include "avx512.hpp"
#include "kernels_source.hpp"

namespace radixpoint {
namespace amx {
namespace {

constexpr int64_t DEPTH = 64;      // operands of one tile
constexpr int64_t TILE = 1024;     // bytes of one tile
constexpr int64_t ROOM = 1 << 20;  // bytes of packed source in hand

struct __attribute__((packed)) Configuration {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
alignas(64) const Configuration WHOLE_TILES = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

void configure() {
  // The intrinsic tells the compiler of 8 bytes only; none of the others may be left out.
  asm volatile("" ::"m"(WHOLE_TILES));
  _tile_loadconfig(&WHOLE_TILES);
}

// `count` 16-bit operands as their low and, if asked for, high bytes.
RP_INLINE void split_bytes(const uint8_t* from, int64_t count, uint8_t* low, uint8_t* high) {
  for (int64_t i = 0; i < count; i += 32) {
    const __mmask32 mask = count - i >= 32 ? ~__mmask32{0} : (__mmask32{1} << (count - i)) - 1;
    const __m512i x = _mm512_maskz_loadu_epi16(mask, from + 2 * i);
    _mm256_mask_storeu_epi8(low + i, mask, _mm512_cvtepi16_epi8(x));
    if (high) _mm256_mask_storeu_epi8(high + i, mask, _mm512_cvtepi16_epi8(_mm512_srli_epi16(x, 8)));
  }
}

// The rows of a tile of output pixels, taps one after the other: [plane][row][stride].
void pack_source(const Conv& conv, const uint8_t* const* pointers, int64_t stride, uint8_t* packed) {
  const Window& w = conv.window;
  const int64_t channels = conv.panels.data()->group_channels;
  const int64_t run = conv.rows ? w.kernel_x * channels : channels;
  for (int r = 0; r < ROWS; ++r) {
    uint8_t* low = packed + r * stride;
    uint8_t* high = conv.high_source ? low + ROWS * stride : nullptr;
    for (int64_t tap = 0; tap < conv.taps; ++tap, low += run) {
      const uint8_t* from = pointers[tap * ROWS + r];
      if (conv.bytes) {
        for (int64_t i = 0; i < run; i += 64) {
          const __mmask64 mask = run - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (run - i)) - 1;
          _mm512_mask_storeu_epi8(low + i, mask, _mm512_maskz_loadu_epi8(mask, from + i));
        }
      } else {
        split_bytes(from, run, low, high);
        if (high) high += run;
      }
    }
  }
}

// Products of bytes, in tile registers 0 to 3. A product waits long for the one before it on the same register, so four
// are under way at a time: of one vector of channels, two or four.

// Four vectors: low source x weights of one plane.
void four_vectors(int vectors, int64_t blocks, const uint8_t* source, int64_t stride, const uint8_t* weights,
                  int64_t step) {
  for (int64_t block = 0; block < blocks; ++block, weights += step, source += DEPTH) {
    _tile_loadd(4, source, stride);
    _tile_loadd(5, weights, 64);
    _tile_dpbusd(0, 4, 5);
    if (vectors > 1) {
      _tile_loadd(6, weights + TILE, 64);
      _tile_dpbusd(1, 4, 6);
    }
    if (vectors > 2) {
      _tile_loadd(7, weights + 2 * TILE, 64);
      _tile_dpbusd(2, 4, 7);
    }
    if (vectors > 3) {
      _tile_loadd(5, weights + 3 * TILE, 64);
      _tile_dpbusd(3, 4, 5);
    }
  }
}

// Two vectors, 0 and 1, 2 and 3: low and high source x weights of one plane.
void two_vectors_high_source(int vectors, int64_t blocks, const uint8_t* source, int64_t stride, const uint8_t* weights,
                             int64_t step) {
  for (int64_t block = 0; block < blocks; ++block, weights += step, source += DEPTH) {
    _tile_loadd(4, source, stride);
    _tile_loadd(5, source + ROWS * stride, stride);
    _tile_loadd(6, weights, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_dpbssd(1, 5, 6);
    if (vectors > 1) {
      _tile_loadd(7, weights + TILE, 64);
      _tile_dpbusd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
  }
}

// Two vectors, 0 and 1, 2 and 3: low source x low and high weights.
void two_vectors_high_weights(int vectors, int64_t blocks, const uint8_t* source, int64_t stride,
                              const uint8_t* weights, int64_t step, int64_t plane) {
  for (int64_t block = 0; block < blocks; ++block, weights += step, source += DEPTH) {
    _tile_loadd(4, source, stride);
    _tile_loadd(6, weights, 64);
    _tile_dpbuud(0, 4, 6);
    _tile_loadd(7, weights + plane, 64);
    _tile_dpbusd(1, 4, 7);
    if (vectors > 1) {
      _tile_loadd(5, weights + TILE, 64);
      _tile_dpbuud(2, 4, 5);
      _tile_loadd(6, weights + plane + TILE, 64);
      _tile_dpbusd(3, 4, 6);
    }
  }
}

// One vector: 0 low x low, 1 low x high, 2 high x low, 3 high x high.
void one_vector(int64_t blocks, const uint8_t* source, int64_t stride, const uint8_t* weights, int64_t step,
                int64_t plane) {
  for (int64_t block = 0; block < blocks; ++block, weights += step, source += DEPTH) {
    _tile_loadd(4, source, stride);
    _tile_loadd(6, weights, 64);
    _tile_dpbuud(0, 4, 6);
    _tile_loadd(7, weights + plane, 64);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, source + ROWS * stride, stride);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
}

// One panel's sums for a tile of pixels. Weights that need one plane are signed there, and so is the product with them.
template <bool HIGH_SOURCE, bool HIGH_WEIGHTS>
void tile_sums(const Conv& conv, const Panel& panel, const uint8_t* packed, int64_t stride, Tile& tile) {
  constexpr int PRODUCTS = (1 + HIGH_SOURCE) * (1 + HIGH_WEIGHTS), AT_ONCE = 4 / PRODUCTS;
  alignas(64) int32_t sums[4][ROWS * LANES];
  const int64_t blocks = conv.depth / DEPTH, step = panel.vectors * TILE, plane = blocks * step;
  for (int n = 0; n < panel.vectors; n += AT_ONCE) {
    const int vectors = std::min(AT_ONCE, panel.vectors - n);
    const uint8_t* weights = panel.weights.data() + n * TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if constexpr (HIGH_SOURCE && HIGH_WEIGHTS) one_vector(blocks, packed, stride, weights, step, plane);
    else if constexpr (HIGH_SOURCE) two_vectors_high_source(vectors, blocks, packed, stride, weights, step);
    else if constexpr (HIGH_WEIGHTS) two_vectors_high_weights(vectors, blocks, packed, stride, weights, step, plane);
    else four_vectors(vectors, blocks, packed, stride, weights, step);
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int v = 0; v < vectors; ++v) {
      const int32_t* own = sums[v * PRODUCTS];
      const I32 start = load<I32>(panel.start.data() + (n + v) * sizeof(I32));
      for (int r = 0; r < ROWS; ++r) {
        const I32 low = plus(load<I32>(own + r * LANES), start);
        I32 middle{}, high{};
        if constexpr (PRODUCTS > 1) middle = load<I32>(own + (ROWS + r) * LANES);
        if constexpr (PRODUCTS > 2) {
          middle = plus(middle, load<I32>(own + (2 * ROWS + r) * LANES));
          high = load<I32>(own + (3 * ROWS + r) * LANES);
        }
        uint8_t* at = tile.data + (r * PANEL + (n + v) * LANES) * 4;
        store(at, (U32)low + ((U32)middle << 8) + ((U32)high << 16));
        if (conv.wide) {  // floor(sum / 2**split), for splits of 8 to 16
          const I32 below = plus(middle, low >> 8) >> (tile.split - 8);
          store(at + SPLIT_PLANE, plus((I32)((U32)high << (16 - tile.split)), below));
        }
      }
    }
  }
}

void sums(const Conv& conv, const Panel& panel, const uint8_t* packed, int64_t stride, Tile& tile) {
  if (conv.high_source && conv.high_weights) tile_sums<true, true>(conv, panel, packed, stride, tile);
  else if (conv.high_source) tile_sums<true, false>(conv, panel, packed, stride, tile);
  else if (conv.high_weights) tile_sums<false, true>(conv, panel, packed, stride, tile);
  else tile_sums<false, false>(conv, panel, packed, stride, tile);
}

void conv(const Conv& conv, const Chain& chain, const View& view, int64_t row_begin, int64_t row_end,
          int64_t panel_begin, int64_t panel_end) {
  configure();
  // A stride that is an odd number of lines spreads the rows over the sets of the cache.
  const int64_t stride = (conv.depth / 64 | 1) * 64, size = ROWS * stride * (conv.high_source ? 2 : 1);
  const int64_t tiles = std::max<int64_t>(1, std::min(BLOCK, ROOM / size));
  const Bytes table(conv.taps * ROWS * static_cast<int64_t>(sizeof(void*))), packed(tiles * size);
  Tile tile;
  Route route;
  tile.split = conv.split;
  for (int64_t block = row_begin; block < row_end; block += tiles * ROWS) {
    int64_t source_channel = -1;
    for (int64_t p = panel_begin; p < panel_end; ++p) {
      const Panel& panel = conv.panels.data()[p];
      prepare(route, chain, panel.channel, panel.channels, view);
      for (int64_t t = 0; t < tiles; ++t) {
        tile.row = block + t * ROWS;
        if (tile.row >= row_end) break;
        tile.rows = static_cast<int>(std::min<int64_t>(ROWS, row_end - tile.row));
        tile.channel = panel.channel;
        tile.channels = panel.channels;
        if (panel.source_channel != source_channel) {
          find_taps(conv, view, tile.row, tile.rows, panel.source_channel, table.as<const uint8_t*>());
          pack_source(conv, table.as<const uint8_t*>(), stride, packed.data() + t * size);
        }
        prefetch(chain, tile, view);
        sums(conv, panel, packed.data() + t * size, stride, tile);
        run_chain(route, chain, tile, view);
      }
      source_channel = panel.source_channel;
    }
  }
  _tile_release();
}

// Rounds of four products on tiles that stay in their registers. Sixteen-bit operands take four.
int64_t tile_peak(bool bytes, int64_t rounds) {
  configure();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_release();
  return rounds * ROWS * LANES * DEPTH * (bytes ? 4 : 1);
}

bool supported() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d >> 24 & 1, bytes = d >> 25 & 1;
  if (!tiles || !bytes || !has_avx512vnni()) return false;
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // arch_prctl(2); the kernel grants tiles on demand
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

}  // namespace
}  // namespace amx

const Kernels AMX = {"amx",     RP_LANES,       RP_VECTORS, RP_ROWS,        true, false, true, amx::supported,
                     amx::conv, nullptr, amx::depthwise, amx::pool,  amx::tile_peak};
}  // namespace radixpoint
