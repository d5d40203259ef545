/* Registers as functions: what the driver reads and writes goes to the simulation. */
#pragma once
#include <stdint.h>
static uint32_t (*reads)(uint64_t);
static void (*writes)(uint64_t, uint32_t);
void connect(uint32_t (*r)(uint64_t), void (*w)(uint64_t, uint32_t));
void connect(uint32_t (*r)(uint64_t), void (*w)(uint64_t, uint32_t)) {
  reads = r;
  writes = w;
}
#define RX_READ32(address) reads(address)
#define RX_WRITE32(address, value) writes(address, value)
