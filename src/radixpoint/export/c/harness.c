/* Runs the network on images from standard input: for each, stored integers as int64_t in the order height, width,
   channel. Writes to standard output, as int64_t: the logits, or with RADIXPOINT_TRACE every tensor. */
#include <stdio.h>
#include <string.h>

#include "network.h"

#ifndef RADIXPOINT_OTHER_OUTPUTS
#define RADIXPOINT_OTHER_OUTPUTS(X)
#endif
#define DECLARE(n) static radixpoint_output##n##_t output##n[RADIXPOINT_OUTPUT##n];
#define PASS(n) , output##n
#define WRITE(n)                                                        \
  for (i = 0; i < RADIXPOINT_OUTPUT##n; ++i) {                          \
    const int64_t value = output##n[i];                                 \
    if (fwrite(&value, sizeof value, 1, stdout) != 1) return 1;         \
  }
RADIXPOINT_OTHER_OUTPUTS(DECLARE)

#ifdef RADIXPOINT_TRACE
static int64_t values[RADIXPOINT_TRACE_VALUES];

void radixpoint_trace(int tensor, int32_t index, int64_t value) {
  values[radixpoint_trace_offset[tensor] + index] = value;
}
#endif

#ifdef RADIXPOINT_PARAMETERS_BLOB
static struct radixpoint_parameters parameters;

static int load(const char *path) {
  FILE *file = fopen(path, "rb");
  int whole = 0;
  if (file == NULL) return 0;
  whole = fread(&parameters, sizeof parameters, 1, file) == 1 && fgetc(file) == EOF;
  fclose(file);
  return whole;
}
#else
#define parameters radixpoint_parameters
#endif

/* Where there is no standard input and output, and no arguments, the names of files are built in. */
#ifndef RADIXPOINT_PARAMETERS
#define RADIXPOINT_PARAMETERS (argc == 2 ? argv[1] : "")
#endif

int main(int argc, char **argv) {
  static int64_t read[RADIXPOINT_IMAGE_VALUES];
  static radixpoint_image_t image[RADIXPOINT_IMAGE_VALUES];
  static radixpoint_logit_t logits[RADIXPOINT_LOGITS];
  static struct radixpoint_buffer buffer;
#ifdef RADIXPOINT_INPUT
  if (freopen(RADIXPOINT_INPUT, "rb", stdin) == NULL) return 3;
  if (freopen(RADIXPOINT_OUTPUT, "wb", stdout) == NULL) return 3;
#endif
#ifdef RADIXPOINT_PARAMETERS_BLOB
  if (!load(RADIXPOINT_PARAMETERS)) {
    fprintf(stderr, "usage: network parameters.bin < images > results\n");
    return 2;
  }
#endif
  (void)argc, (void)argv;
  while (fread(read, sizeof read, 1, stdin) == 1) {
    int i;
    for (i = 0; i < RADIXPOINT_IMAGE_VALUES; ++i) image[i] = (radixpoint_image_t)read[i];
#ifdef RADIXPOINT_TRACE
    memset(values, 0x80, sizeof values);
    for (i = 0; i < RADIXPOINT_IMAGE_VALUES; ++i) values[i] = image[i];
#endif
    radixpoint_run(&parameters, image, logits RADIXPOINT_OTHER_OUTPUTS(PASS), &buffer);
#ifdef RADIXPOINT_TRACE
    if (fwrite(values, sizeof values, 1, stdout) != 1) return 1;
#else
    {
      int64_t wide[RADIXPOINT_LOGITS];
      for (i = 0; i < RADIXPOINT_LOGITS; ++i) wide[i] = logits[i];
      if (fwrite(wide, sizeof wide, 1, stdout) != 1) return 1;
      RADIXPOINT_OTHER_OUTPUTS(WRITE)
    }
#endif
  }
  return 0;
}
