/* Runs the accelerator rx_axi. C99, no heap, no operating system.
 *
 * registers is the address of its registers. Memory is given twice: as the processor reads and writes it (a pointer), and
 * as the accelerator does (a number, a multiple of RX_BEAT_BYTES).
 *
 * RX_FLUSH and RX_INVALIDATE (pointer, bytes) stand where memory passes from one to the other. By default they only keep
 * the compiler from moving accesses across. Where a cache lies between, they must write it back, or forget it; where the
 * processor moves accesses, they must be a barrier, such as DSB.
 */
#pragma once
#include <stdint.h>

#include "radixpoint_network.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  RX_OK = 0,
  RX_READ_ERROR = 1,     /* the memory answered a read with an error */
  RX_WRITE_ERROR = 2,    /* or a write */
  RX_TOO_SHORT = 3,      /* the program ended too soon */
  RX_TOO_LONG = 4,       /* or is another's: words were left */
  RX_BAD_SETTING = 5,    /* an address between two beats, no batch, or no program */
  RX_STOPPED = 6,        /* by rx_stop */
  RX_OTHER_DEVICE = 16,  /* the registers are not those of this network's accelerator */
  RX_OTHER_PROGRAM = 17, /* the bytes are not those of this network's program */
  RX_TIMEOUT = 18,       /* not done; it runs on, or rx_stop */
  RX_BUSY = 19           /* a run is going on */
} rx_result;

/* Of a batch of images in memory, and of its results. */
#define RX_BATCH_IMAGE_BYTES ((uint64_t)RX_BATCH * RX_IMAGE_WORDS * RX_IMAGE_WORD_BYTES)
#define RX_BATCH_RESULT_BYTES ((uint64_t)RX_BATCH * RX_RESULT_WORDS * RX_RESULT_WORD_BYTES)

/* Whether the registers are those of this network's accelerator, and at rest. */
rx_result rx_open(uintptr_t registers);

/* Whether RX_PROGRAM_BYTES bytes are program.bin; then makes them visible to the accelerator. */
rx_result rx_check_program(const uint8_t *program);

/* Puts count images in place: stored integers from RX_IMAGE_LOW to RX_IMAGE_HIGH, (count, RX_IMAGE_CHANNELS, RX_IMAGE_ROWS,
 * RX_IMAGE_COLUMNS). A batch that they do not fill takes RX_BATCH_IMAGE_BYTES all the same, and its other results mean
 * nothing. */
void rx_put_images(uint8_t *memory, const int32_t *images, uint32_t count);

/* Makes memory ready for the results of so many batches: nothing that a cache still holds of it may come over them. */
void rx_give_results(uint8_t *memory, uint32_t batches);

/* Takes the results of count images: stored integers, (count, RX_RESULT_VALUES). */
void rx_take_results(const uint8_t *memory, int32_t *results, uint32_t count);

/* Begins a run over batches that lie one after the other. */
rx_result rx_start(uintptr_t registers, uint64_t program, uint64_t images, uint64_t results, uint32_t batches);

/* Asks up to polls times whether the run is done. */
rx_result rx_wait(uintptr_t registers, uint32_t polls);

/* Ends a run after what the memory still owes has come; rx_wait then answers RX_STOPPED. */
void rx_stop(uintptr_t registers);

/* Clocks of the last run, and those of them in which the accelerator waited for memory. */
uint32_t rx_clocks(uintptr_t registers);
uint32_t rx_waited(uintptr_t registers);

#ifdef __cplusplus
}
#endif
