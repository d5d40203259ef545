#include "radixpoint_axi.h"

#ifndef RX_READ32
#define RX_READ32(address) (*(const volatile uint32_t *)(address))
#define RX_WRITE32(address, value) (*(volatile uint32_t *)(address) = (value))
#endif
#ifndef RX_FLUSH
#if defined(__GNUC__)
#define RX_ORDERED() __asm__ __volatile__("" ::: "memory")
#else
#define RX_ORDERED() ((void)0)
#endif
#define RX_FLUSH(pointer, bytes) ((void)(pointer), (void)(bytes), ordered())
#define RX_INVALIDATE(pointer, bytes) ((void)(pointer), (void)(bytes), ordered())
static void ordered(void) { RX_ORDERED(); }
#endif

enum {
  IDENTIFIER = 0x00,
  CONTROL = 0x04,
  STATUS = 0x08,
  PROGRAM = 0x10,
  PROGRAM_BEATS = 0x18,
  BATCHES = 0x1c,
  IMAGES = 0x20,
  RESULTS = 0x28,
  CLOCKS = 0x30,
  WAITED = 0x34
};
enum { STATUS_BUSY = 1, STATUS_DONE = 2, CONTROL_START = 1, CONTROL_STOP = 2 };

rx_result rx_open(uintptr_t registers) {
  if (RX_READ32(registers + IDENTIFIER) != RX_IDENTIFIER) return RX_OTHER_DEVICE;
  return RX_READ32(registers + STATUS) & STATUS_BUSY ? RX_BUSY : RX_OK;
}

rx_result rx_check_program(const uint8_t *program) {
  uint32_t hash = 0x811c9dc5u;
  for (uint32_t i = 0; i < RX_PROGRAM_BYTES; i += 4) {
    const uint32_t word = program[i] | (uint32_t)program[i + 1] << 8 | (uint32_t)program[i + 2] << 16 |
                          (uint32_t)program[i + 3] << 24;
    hash = (hash ^ word) * 0x01000193u;
  }
  if (hash != RX_PROGRAM_HASH) return RX_OTHER_PROGRAM;
  RX_FLUSH(program, RX_PROGRAM_BYTES);
  return RX_OK;
}

static void put_bits(uint8_t *word, uint32_t place, uint32_t bits, uint32_t value) {
  for (; bits > 0; --bits, ++place, value >>= 1)
    if (value & 1u) word[place / 8] |= (uint8_t)(1u << place % 8);
}

static uint32_t get_bits(const uint8_t *word, uint32_t place, uint32_t bits) {
  uint32_t value = 0;
  for (uint32_t i = 0; i < bits; ++i) value |= (uint32_t)(word[(place + i) / 8] >> (place + i) % 8 & 1) << i;
  return value;
}

/* The value of a slot of a place: as many rows and columns of the image share one as the first convolution strides. */
static int32_t pixel(const int32_t *image, uint32_t place, uint32_t slot) {
  if (slot >= RX_IMAGE_FOLD_ROWS * RX_IMAGE_FOLD_COLUMNS * RX_IMAGE_CHANNELS) return 0;
  const uint32_t inside = slot / RX_IMAGE_CHANNELS, channel = slot % RX_IMAGE_CHANNELS;
  const int32_t row = (int32_t)RX_IMAGE_FIRST_ROW +
                      (int32_t)(place / RX_IMAGE_PLACE_COLUMNS * RX_IMAGE_FOLD_ROWS + inside / RX_IMAGE_FOLD_COLUMNS);
  const int32_t column =
      (int32_t)RX_IMAGE_FIRST_COLUMN +
      (int32_t)(place % RX_IMAGE_PLACE_COLUMNS * RX_IMAGE_FOLD_COLUMNS + inside % RX_IMAGE_FOLD_COLUMNS);
  if (row < 0 || column < 0 || row >= (int32_t)RX_IMAGE_ROWS || column >= (int32_t)RX_IMAGE_COLUMNS) return 0;
  return image[(channel * RX_IMAGE_ROWS + (uint32_t)row) * RX_IMAGE_COLUMNS + (uint32_t)column];
}

void rx_put_images(uint8_t *memory, const int32_t *images, uint32_t count) {
  uint8_t *word = memory;
  for (uint32_t i = 0; i < count; ++i) {
    const int32_t *image = images + (uint64_t)i * RX_IMAGE_CHANNELS * RX_IMAGE_ROWS * RX_IMAGE_COLUMNS;
    for (uint32_t at = 0; at < RX_IMAGE_WORDS; ++at, word += RX_IMAGE_WORD_BYTES) {
      for (uint32_t b = 0; b < RX_IMAGE_WORD_BYTES; ++b) word[b] = 0;
      for (uint32_t lane = 0; lane < RX_LANES; ++lane) {
        const uint32_t slot = at % RX_IMAGE_PLACE_WORDS * RX_LANES + lane;
        put_bits(word, lane * RX_IMAGE_BITS, RX_IMAGE_BITS, (uint32_t)pixel(image, at / RX_IMAGE_PLACE_WORDS, slot));
      }
    }
  }
  RX_FLUSH(memory, (uint64_t)(word - memory));
}

void rx_give_results(uint8_t *memory, uint32_t batches) { RX_FLUSH(memory, batches * RX_BATCH_RESULT_BYTES); }

void rx_take_results(const uint8_t *memory, int32_t *results, uint32_t count) {
  const uint32_t slots = RX_RESULT_WORDS / RX_RESULT_PLACES * RX_LANES;
  RX_INVALIDATE(memory, (uint64_t)count * RX_RESULT_WORDS * RX_RESULT_WORD_BYTES);
  for (uint32_t i = 0; i < count; ++i, results += RX_RESULT_VALUES)
    for (uint32_t value = 0; value < RX_RESULT_WORDS * RX_LANES; ++value) {
      const uint32_t slot = value % slots, place = value / slots;
      if (RX_RESULT_SLOTS[slot] < 0) continue;
      const uint8_t *word = memory + (uint64_t)(i * RX_RESULT_WORDS + value / RX_LANES) * RX_RESULT_WORD_BYTES;
      const uint32_t raw = get_bits(word, value % RX_LANES * RX_RESULT_BITS, RX_RESULT_BITS < 32 ? RX_RESULT_BITS : 32);
      const uint32_t sign = RX_RESULT_BITS < 32 ? 1u << (RX_RESULT_BITS - 1) % 32 : 0u;
      results[(uint32_t)RX_RESULT_SLOTS[slot] * RX_RESULT_PLACES + place] = (int32_t)((raw ^ sign) - sign);
    }
}

rx_result rx_start(uintptr_t registers, uint64_t program, uint64_t images, uint64_t results, uint32_t batches) {
  if (RX_READ32(registers + STATUS) & STATUS_BUSY) return RX_BUSY;
  RX_WRITE32(registers + PROGRAM, (uint32_t)program);
  RX_WRITE32(registers + PROGRAM + 4, (uint32_t)(program >> 32));
  RX_WRITE32(registers + PROGRAM_BEATS, RX_PROGRAM_BYTES / RX_BEAT_BYTES);
  RX_WRITE32(registers + BATCHES, batches);
  RX_WRITE32(registers + IMAGES, (uint32_t)images);
  RX_WRITE32(registers + IMAGES + 4, (uint32_t)(images >> 32));
  RX_WRITE32(registers + RESULTS, (uint32_t)results);
  RX_WRITE32(registers + RESULTS + 4, (uint32_t)(results >> 32));
  RX_WRITE32(registers + CONTROL, CONTROL_START);
  return RX_OK;
}

rx_result rx_wait(uintptr_t registers, uint32_t polls) {
  while (polls-- > 0) {
    const uint32_t status = RX_READ32(registers + STATUS);
    if (status >> 8) return (rx_result)(status >> 8);
    if (status & STATUS_DONE) return RX_OK;
  }
  return RX_TIMEOUT;
}

void rx_stop(uintptr_t registers) { RX_WRITE32(registers + CONTROL, CONTROL_STOP); }

uint32_t rx_clocks(uintptr_t registers) { return RX_READ32(registers + CLOCKS); }

uint32_t rx_waited(uintptr_t registers) { return RX_READ32(registers + WAITED); }
