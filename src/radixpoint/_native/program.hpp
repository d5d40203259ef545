// What an IntGraph becomes: buffers, and operations that each produce a tile of integers and pass it through a
// chain of stages. Plain data; kernels.hpp reads it, engine.cpp schedules it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

// Code in this header is compiled once for each instruction set; a copy that the linker picked for all of them could use
// instructions that the machine lacks. So nothing here may have a symbol of its own.
#define RP_INLINE inline __attribute__((always_inline))

namespace radixpoint {

// How a tensor's integers lie in memory. U8 holds value + zero, zero being 0 or 128.
enum class Storage : int { U8 = 0, I16 = 1, I32 = 2, I64 = 3 };

RP_INLINE constexpr int64_t bytes_of(Storage storage) { return int64_t{1} << static_cast<int>(storage); }

// Memory aligned to a vector, with SLACK bytes of zeros behind the last element: a kernel may read a whole vector or
// a whole unit of the dot product where less than that is left.
constexpr int64_t ALIGNMENT = 64;
constexpr int64_t SLACK = 1024;

class Bytes {
 public:
  RP_INLINE Bytes() = default;
  RP_INLINE explicit Bytes(int64_t size) : size_(size) {
    const auto whole = static_cast<std::size_t>((size + SLACK + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    data_ = static_cast<uint8_t*>(std::aligned_alloc(ALIGNMENT, whole));
    if (!data_) throw std::bad_alloc();
    __builtin_memset(data_, 0, whole);
  }
  RP_INLINE Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  RP_INLINE Bytes& operator=(Bytes&& other) noexcept {
    if (this == &other) return *this;
    std::free(data_);
    data_ = other.data_, size_ = other.size_;
    other.data_ = nullptr;
    return *this;
  }
  RP_INLINE ~Bytes() { std::free(data_); }

  RP_INLINE uint8_t* data() const { return data_; }
  RP_INLINE int64_t size() const { return size_; }
  template <class T>
  RP_INLINE T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

// A tensor, channels last, at `offset` bytes an image in the arena.
struct Buffer {
  int64_t pixels;
  int64_t channels;
  Storage storage;
  int32_t zero;
  int64_t offset;

  RP_INLINE int64_t bytes() const { return pixels * channels * bytes_of(storage); }
};

enum class Multiply : int { NONE, FULL, SHORT, TENSOR };  // SHORT: value and factor both fit 16 bits; TENSOR: by other
enum class Correction : int { NONE, SIGN, ODD };
enum class Limit : int { CLAMP, WRAP_SIGNED, WRAP_UNSIGNED };

// y = limit((x * factor or x << left, + other << other_left, + addend, + correction) >> shift)
//
// Two kinds of stages compute something else, an integer at a time: LOOKUP, y = table[x - first], and DIVIDE, the quotient
// of x << up and the divisor, rounded as `rounding` says and limited.
//
// One value a channel for each parameter, in 64 bits as given and in 32 for stages that stay within 32. The correction
// is the part of a rounding mode that depends on the value: mask where the sum is negative (SIGN), or where
// its integer part is odd (ODD).
enum class Kind : int { LINEAR, LOOKUP, DIVIDE };
enum class Rounding : int { TRN, TRN_ZERO, RND, RND_MIN_INF, RND_INF, RND_ZERO, RND_CONV };

struct Stage {
  Kind kind = Kind::LINEAR;
  Rounding rounding = Rounding::TRN;
  int64_t first = 0;    // of a table
  int64_t divisor = 1;
  int up = 0;           // places that a dividend moves left
  Bytes table;          // int32
  bool per_image = false;  // other has one place for the whole image
  bool wide_in, wide_work, wide_out;  // 64-bit integers instead of 32
  Multiply multiply;
  Correction correction;
  Limit limit;
  int wrap_bits;
  int64_t low, high;
  int other = -1;  // buffer added or multiplied by, or -1
  int store = -1;  // buffer written, or -1
  int64_t store_channel = 0;
  bool has_left = false;
  bool nothing = false;  // stores what comes in
  Bytes factor, left, addend, shift, mask, other_left;  // int32 or, if wide_work, int64
  Bytes addend_rounding;                                // added after the correction is taken
  // Whether one dot product a channel does it, given integers of 16 bits: the integer and other's, times a pair of factors
  // of 16 bits.
  bool in_pairs = false;
  Bytes pairs;  // 2 x int16 [channel]
  // The shift, where all channels have the same addend and shift, nothing is multiplied or added from elsewhere, and 16 bits
  // suffice given integers of 16 bits; else -1.
  int places = -1;
  bool from_split = false;                              // a plain cast of sums split as Conv says; int32 for it:
  Bytes addend_low, addend_high, shift_high;            // addend below and from `split` bits on, shift - split
};

using Chain = std::vector<Stage>;

// Geometry of a sliding window over a channels-last image.
struct Window {
  int64_t height, width, channels;  // of the source
  int64_t out_height, out_width;
  int64_t kernel_y, kernel_x, stride_y, stride_x, top, left, dilation_y, dilation_x;
};

// A run of units (4 bytes of operands) of the reduction within one tap. After a segment with `flush` the 32-bit
// sums of a wide convolution are added to wider ones, before they could overflow.
struct Segment {
  int32_t tap, start, units, flush;
};

// One panel: up to VECTORS vectors of output channels, with its packed weights.
struct Panel {
  int64_t channel;   // first output channel
  int64_t channels;  // how many are real
  int64_t source_channel, group_channels;  // where its sources begin, and how many there are
  int vectors;
  std::vector<Segment> segments;
  Bytes weights;  // [unit][vector][lane] of 4 bytes; for tiles see Conv::high_weights
  Bytes start;    // int32 [vector][lane]: minus what the zero of a U8 source adds
  // Of bytes that an instruction adds in 16 bits: how many units at a time may be added there, then 0; 0 alone if too few.
  std::vector<uint8_t> runs;
};

struct Conv {
  int source;
  Window window;
  bool bytes;  // 8-bit operands: a unit is 4 of them; otherwise 2 of 16 bits
  bool plain;  // one tap at the output pixel's own place
  bool rows;   // a tap is a whole row of the window, over a source padded in x (few channels)
  bool wide;   // sums are handed on in 64 bits, or split
  int split;   // where, if wide
  int padded = -1;  // buffer of the padded source, if rows
  int64_t taps;
  std::vector<Panel> panels;
  Bytes zeros;  // what a tap outside the image reads
  // For matrix tiles, which multiply bytes: 16-bit operands are two planes, value = high * 256 + low, unless the range
  // of the source or of the weights needs one alone. Weights are [plane, low first][block of 64][vector][4 x 16 x 4].
  bool high_source, high_weights;
  int64_t depth;  // operands of the reduction, in whole blocks of 64
};

// A 3x3 convolution of stride 1 with 16 products for four results; see generic/winograd.hpp.
struct Winograd {
  int source;
  Window window;
  std::vector<Panel> panels;  // [panel][point of 16]: transformed weights, each point a product of matrices
  Bytes zeros;                // what a tap outside the image reads

  RP_INLINE int64_t squares_x() const { return (window.out_width + 1) / 2; }
  RP_INLINE int64_t squares_y() const { return (window.out_height + 1) / 2; }
};

struct Depthwise {
  static constexpr int64_t MOST_PAIRS = 41;  // of a 9 x 9 window

  int source;
  Window window;
  bool wide;
  Bytes weights;  // int32 or int64 [tap][channel]
  int64_t padded_channels;
  int64_t pairs;  // of taps, where operands and sums allow; else 0
  Bytes paired;   // 2 x int16 [pair][channel]
  Bytes start;    // int32 [channel]: minus what the zero of a U8 source adds
  Bytes zeros;    // what a tap outside the image reads
};

enum class Pooling : int { NONE, MAX, SUM };  // NONE: the source itself

struct Pool {
  int source;
  Window window;
  Pooling pooling;
  bool wide;
};

// Where buffers lie during one run.
struct View {
  const std::vector<Buffer>* buffers;
  uint8_t* arena;
  int64_t batch;
  int64_t rows = 0;  // output pixels of the operation at hand, over all images

  RP_INLINE const Buffer& buffer(int index) const { return (*buffers)[static_cast<std::size_t>(index)]; }
  RP_INLINE uint8_t* data(int index) const { return arena + buffer(index).offset * batch; }
};

}  // namespace radixpoint
