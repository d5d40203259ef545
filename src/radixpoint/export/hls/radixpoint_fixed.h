// Fixed-point types of Vitis HLS (ap_fixed) or, with RADIXPOINT_CATAPULT, of Catapult (ac_fixed), under one spelling:
// word length, integer bits, rounding, overflow. An assignment is a cast: one rounding, then the overflow handling.
#ifndef RADIXPOINT_FIXED_H
#define RADIXPOINT_FIXED_H

#include "radixpoint.h"

#ifdef RADIXPOINT_CATAPULT
#include <ac_fixed.h>
#define RX_SFIXED(W, I, Q, O) ac_fixed<W, I, true, AC_##Q, AC_##O>
#define RX_UFIXED(W, I, Q, O) ac_fixed<W, I, false, AC_##Q, AC_##O>
#define RX_SINT(W) ac_int<W, true>
#define RX_UINT(W) ac_int<W, false>
#define RX_PIPELINED_LOOP _Pragma("hls_pipeline_init_interval 1")
#define RX_PIPELINE
#else
#include <ap_fixed.h>
#include <ap_int.h>
#define RX_SFIXED(W, I, Q, O) ap_fixed<W, I, AP_##Q, AP_##O>
#define RX_UFIXED(W, I, Q, O) ap_ufixed<W, I, AP_##Q, AP_##O>
#define RX_SINT(W) ap_int<W>
#define RX_UINT(W) ap_uint<W>
// Catapult takes the directive before a loop, Vitis HLS within it.
#define RX_PIPELINED_LOOP
#ifdef __SYNTHESIS__
#define RX_PIPELINE _Pragma("HLS PIPELINE II=1")
#else
#define RX_PIPELINE
#endif
#endif

namespace rx {

// The same bits under another type of the same word length.
template <class To, class From>
inline To reinterpret(const From &from) {
  To to;
#ifdef RADIXPOINT_CATAPULT
  to.set_slc(0, from.template slc<From::width>(0));
#else
  to.range(To::width - 1, 0) = from.range(From::width - 1, 0);
#endif
  return to;
}

template <class T>
inline T from_integer(int64_t value) {
#ifdef RADIXPOINT_CATAPULT
  return reinterpret<T>(RX_SINT(T::width)(value));
#else
  return reinterpret<T>(ap_int<T::width>(value));
#endif
}

#ifdef RADIXPOINT_CATAPULT
template <class T>
inline int64_t to_integer(const T &value) {
  return reinterpret<ac_int<T::width, T::sign> >(value).to_int64();
}
#else
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
inline int64_t to_integer(const ap_fixed<W, I, Q, O, N> &value) {
  return reinterpret<ap_int<W> >(value).to_int64();
}
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
inline int64_t to_integer(const ap_ufixed<W, I, Q, O, N> &value) {
  return reinterpret<ap_uint<W> >(value).to_uint64();
}
#endif

// One element of a convolution. XV and WV: the types as which stored values enter the products.
template <int ROWS, int COLUMNS, int CHANNELS, int KERNEL_Y, int KERNEL_X, int STRIDE_Y, int STRIDE_X, int TOP, int LEFT,
          int DILATION_Y, int DILATION_X, int TERMS, int OUTPUTS_OF_GROUP, class SUM, class XV, class WV, class X, class W>
inline SUM convolution(const X *x, const W *w, int row, int column, int c) {
  SUM sum = 0;
KERNEL_ROWS:
  for (int ky = 0; ky < KERNEL_Y; ++ky) {
  KERNEL_COLUMNS:
    for (int kx = 0; kx < KERNEL_X; ++kx) {
      const int iy = row * STRIDE_Y + ky * DILATION_Y - TOP, ix = column * STRIDE_X + kx * DILATION_X - LEFT;
      if (iy < 0 || iy >= ROWS || ix < 0 || ix >= COLUMNS) continue;
    RX_PIPELINED_LOOP
    INPUT_CHANNELS:
      for (int k = 0; k < TERMS; ++k) {
        RX_PIPELINE
        sum += from_integer<WV>(w[((c * KERNEL_Y + ky) * KERNEL_X + kx) * TERMS + k]) *
               reinterpret<XV>(x[(iy * COLUMNS + ix) * CHANNELS + c / OUTPUTS_OF_GROUP * TERMS + k]);
      }
    }
  }
  return sum;
}

// One element of a fully connected layer.
template <int TERMS, class SUM, class XV, class WV, class X, class W>
inline SUM dense(const X *x, const W *w, int c) {
  SUM sum = 0;
RX_PIPELINED_LOOP
INPUT_FEATURES:
  for (int k = 0; k < TERMS; ++k) {
    RX_PIPELINE
    sum += from_integer<WV>(w[c * TERMS + k]) * reinterpret<XV>(x[k]);
  }
  return sum;
}

template <int ROWS, int COLUMNS, int CHANNELS, int KERNEL_Y, int KERNEL_X, int STRIDE_Y, int STRIDE_X, int TOP, int LEFT,
          class X>
inline X largest(const X *x, int row, int column, int c) {
  X best = 0;
  bool found = false;
KERNEL_ROWS:
  for (int ky = 0; ky < KERNEL_Y; ++ky) {
  RX_PIPELINED_LOOP
  KERNEL_COLUMNS:
    for (int kx = 0; kx < KERNEL_X; ++kx) {
      RX_PIPELINE
      const int iy = row * STRIDE_Y + ky - TOP, ix = column * STRIDE_X + kx - LEFT;
      if (iy < 0 || iy >= ROWS || ix < 0 || ix >= COLUMNS) continue;
      const X value = x[(iy * COLUMNS + ix) * CHANNELS + c];
      if (!found || value > best) best = value;
      found = true;
    }
  }
  return best;
}

template <int ROWS, int COLUMNS, int CHANNELS, int KERNEL_Y, int KERNEL_X, int STRIDE_Y, int STRIDE_X, int TOP, int LEFT,
          class SUM, class X>
inline SUM window_sum(const X *x, int row, int column, int c) {
  SUM sum = 0;
KERNEL_ROWS:
  for (int ky = 0; ky < KERNEL_Y; ++ky) {
  RX_PIPELINED_LOOP
  KERNEL_COLUMNS:
    for (int kx = 0; kx < KERNEL_X; ++kx) {
      RX_PIPELINE
      const int iy = row * STRIDE_Y + ky - TOP, ix = column * STRIDE_X + kx - LEFT;
      if (iy < 0 || iy >= ROWS || ix < 0 || ix >= COLUMNS) continue;
      sum += x[(iy * COLUMNS + ix) * CHANNELS + c];
    }
  }
  return sum;
}

template <int COLUMNS, int CHANNELS, int SIZE, int BEFORE, class SUM, class X>
inline SUM channel_sum(const X *x, int row, int column, int c) {
  SUM sum = 0;
NEIGHBOURS:
  for (int k = 0; k < SIZE; ++k) {
    RX_PIPELINE
    const int channel = c - BEFORE + k;
    if (channel < 0 || channel >= CHANNELS) continue;
    sum += x[(row * COLUMNS + column) * CHANNELS + channel];
  }
  return sum;
}

template <class T, class A, class B>
inline T maximum(const A &a, const B &b) {  // compared as they are: T need not hold both
  return a < b ? T(b) : T(a);
}

template <class T, class A, class B>
inline T minimum(const A &a, const B &b) {
  return b < a ? T(b) : T(a);
}

template <class T>
inline T clamp(const T &value, const T &low, const T &high) {
  return value < low ? low : value > high ? high : value;
}

}  // namespace rx

#undef RX_TRACE
#if defined(RADIXPOINT_TRACE) && !defined(__SYNTHESIS__)
#define RX_TRACE(tensor, index, value) radixpoint_trace((tensor), (index), rx::to_integer(value))
#else
#define RX_TRACE(tensor, index, value) ((void)0)
#endif

#endif
