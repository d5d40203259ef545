// What the two NEON instruction sets share; see kernels_source.hpp.
#pragma once

#define RP_LANES 4
#define RP_VECTORS 4
#define RP_ROWS 6
#define RP_DOT16(a, x, w)                                                                               \
  ((I32)vaddq_s32((int32x4_t)(a),                                                                       \
                  vpaddq_s32(vmull_s16(vget_low_s16((int16x8_t)(x)), vget_low_s16((int16x8_t)(w))),     \
                             vmull_high_s16((int16x8_t)(x), (int16x8_t)(w)))))
#define RP_OPAQUE(v) asm volatile("" : "+w"(v))
