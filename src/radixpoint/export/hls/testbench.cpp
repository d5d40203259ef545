// Runs the network on images from standard input: for each, stored integers as int64_t in the order height, width,
// channel. Writes to standard output, as int64_t: the logits, or with RADIXPOINT_TRACE every tensor.
#include <cstdio>
#include <cstring>

#include "network.h"

#ifdef RADIXPOINT_TRACE
static int64_t values[RADIXPOINT_TRACE_VALUES];

void radixpoint_trace(int tensor, int32_t index, int64_t value) {
  values[radixpoint_trace_offset[tensor] + index] = value;
}
#endif

int main() {
  static int64_t read[RADIXPOINT_IMAGE_VALUES];
  static image_t image[RADIXPOINT_IMAGE_VALUES];
  static logit_t logits[RADIXPOINT_LOGITS];
  while (std::fread(read, sizeof read, 1, stdin) == 1) {
    for (int i = 0; i < RADIXPOINT_IMAGE_VALUES; ++i) image[i] = rx::from_integer<image_t>(read[i]);
#ifdef RADIXPOINT_TRACE
    std::memset(values, 0x80, sizeof values);
    std::memcpy(values, read, sizeof read);
#endif
    network(image, logits);
#ifdef RADIXPOINT_TRACE
    if (std::fwrite(values, sizeof values, 1, stdout) != 1) return 1;
#else
    int64_t wide[RADIXPOINT_LOGITS];
    for (int i = 0; i < RADIXPOINT_LOGITS; ++i) wide[i] = rx::to_integer(logits[i]);
    if (std::fwrite(wide, sizeof wide, 1, stdout) != 1) return 1;
#endif
  }
  return 0;
}
