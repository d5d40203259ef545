// What an instruction set provides. Each is compiled from kernels_source.hpp; engine.cpp picks one at run time.
#pragma once

#include "program.hpp"

namespace radixpoint {

struct Kernels {
  const char* name;
  int lanes;         // 32-bit integers in a vector
  int vectors;       // vectors of output channels in a panel
  int rows;          // output pixels in a tile
  bool byte_dot;     // has a dot product of 8-bit operands
  bool saturates;    // it adds pairs of products in 16 bits: they must stay within
  bool tiles;        // multiplies matrix tiles of bytes; weights are packed for that
  bool (*supported)();

  // Output pixels row_begin..row_end (over all images) of panels panel_begin..panel_end, through the chain.
  void (*conv)(const Conv&, const Chain&, const View&, int64_t row_begin, int64_t row_end, int64_t panel_begin,
               int64_t panel_end);
  // Squares of results begin..end (over all images) likewise; none where matrix tiles are faster.
  void (*winograd)(const Winograd&, const Chain&, const View&, int64_t begin, int64_t end, int64_t panel_begin,
                   int64_t panel_end);
  void (*depthwise)(const Depthwise&, const Chain&, const View&, int64_t row_begin, int64_t row_end);
  void (*pool)(const Pool&, const Chain&, const View&, int64_t row_begin, int64_t row_end);
  // Dot-product instructions in a loop over registers alone; returns multiply-accumulates done.
  int64_t (*peak)(bool bytes, int64_t rounds);
};

extern const Kernels PORTABLE;
#ifdef RADIXPOINT_X86
extern const Kernels AVX2;
extern const Kernels AVX512VNNI;
#ifdef RADIXPOINT_AMX
extern const Kernels AMX;
#endif
#endif
#ifdef RADIXPOINT_ARM
extern const Kernels NEON;
extern const Kernels I8MM;
#endif

}  // namespace radixpoint
