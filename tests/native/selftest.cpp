// The kernels against plain loops in 64-bit integers, without Python: for machines that are only emulated.
//
// Random convolutions, depthwise convolutions and poolings of every operand width, operands random or all at an end, behind
// each a cast, a scale with offset and rounding, and a store. Prints how many outputs each instruction set
// got right; exits with 1 at the first that it did not.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine.hpp"

using namespace radixpoint;

namespace {

std::mt19937_64 source_of_chance(1);

int64_t chance(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(source_of_chance); }

std::vector<int64_t> operands(int64_t count, int64_t low, int64_t high) {
  std::vector<int64_t> x(static_cast<std::size_t>(count));
  const int64_t pattern = chance(0, 3);
  for (auto& v : x) v = pattern == 0 ? low : pattern == 1 ? high : chance(low, high);
  return x;
}

// One value a channel, with the zeros behind that kernels may read.
Bytes lanes(const std::vector<int64_t>& values, bool wide) {
  Bytes b(static_cast<int64_t>(values.size()) * 8);
  for (std::size_t i = 0; i < values.size(); ++i)
    if (wide) b.as<int64_t>()[i] = values[i];
    else b.as<int32_t>()[i] = static_cast<int32_t>(values[i]);
  return b;
}

Stage stage(bool wide_in, bool wide_work, const std::vector<int64_t>& factor, const std::vector<int64_t>& addend,
            int shift, int64_t low, int64_t high) {
  const std::vector<int64_t> zeros(addend.size(), 0), shifts(addend.size(), shift);
  Stage s{};
  s.wide_in = wide_in, s.wide_work = wide_work, s.wide_out = false;
  s.multiply = factor.empty() ? Multiply::NONE : Multiply::SHORT;
  std::vector<int64_t> pairs = factor.empty() ? zeros : factor;
  for (auto& f : pairs) f &= 0xffff;
  s.low = low, s.high = high;
  s.factor = lanes(pairs, wide_work), s.left = lanes(zeros, wide_work), s.addend = lanes(addend, wide_work);
  s.shift = lanes(shifts, wide_work), s.mask = lanes(zeros, wide_work), s.other_left = lanes(zeros, wide_work);
  s.addend_rounding = lanes(zeros, wide_work);
  return s;
}

int64_t cast(int64_t x, int64_t addend, int shift, int64_t low, int64_t high) {
  return std::clamp((x + addend) >> shift, low, high);
}

int64_t one(const Kernels& kernels) {
  const bool depthwise = chance(0, 4) == 0;
  Window w{};
  w.kernel_y = chance(1, 3), w.kernel_x = chance(1, 3), w.stride_y = chance(1, 2), w.stride_x = chance(1, 2);
  w.top = chance(0, w.kernel_y - 1), w.left = chance(0, w.kernel_x - 1), w.dilation_y = 1, w.dilation_x = 1;
  w.height = chance(3, 8), w.width = chance(3, 8);
  w.out_height = (w.height + w.top - w.kernel_y) / w.stride_y + 1;
  w.out_width = (w.width + w.left - w.kernel_x) / w.stride_x + 1;
  const int64_t groups = depthwise ? 1 : chance(0, 3) == 0 ? 2 : 1, each = chance(1, 80);
  w.channels = each * groups;
  const int64_t outputs = depthwise ? w.channels : groups * chance(1, 70), batch = chance(1, 3);
  const int x_bits = static_cast<int>(chance(2, 16)), w_bits = static_cast<int>(chance(2, 16));
  const int64_t x_low = -(int64_t{1} << (x_bits - 1)), x_high = -x_low - 1;
  const int64_t w_low = -(int64_t{1} << (w_bits - 1)), w_high = -w_low - 1;

  const int64_t taps = w.kernel_y * w.kernel_x, group_channels = depthwise ? 1 : each;
  const auto weights = operands(outputs * group_channels * taps, w_low, w_high);
  std::vector<int16_t> stored(weights.begin(), weights.end());
  const int64_t pixels = w.height * w.width, out_pixels = w.out_height * w.out_width;
  const auto x = operands(batch * w.channels * pixels, x_low, x_high);

  int64_t bound = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    int64_t sum = 0;
    for (int64_t i = 0; i < group_channels * taps; ++i)
      sum += std::abs(weights[static_cast<std::size_t>(o * group_channels * taps + i)]);
    bound = std::max(bound, sum * -x_low);
  }
  int64_t pair = 0;  // the largest magnitude of two weights of one output
  for (int64_t o = 0; o < outputs; ++o) {
    std::vector<int64_t> own;
    for (int64_t i = 0; i < group_channels * taps; ++i)
      own.push_back(std::abs(weights[static_cast<std::size_t>(o * group_channels * taps + i)]));
    own.push_back(0);
    std::sort(own.rbegin(), own.rend());
    pair = std::max(pair, own[0] + own[1]);
  }
  const bool wide = bound > INT32_MAX, bytes = !depthwise && kernels.byte_dot && x_bits <= 8 && w_bits <= 8 &&
                                               (!kernels.saturates || pair * (x_high + 128) <= INT16_MAX);
  const int shift = wide ? 20 : static_cast<int>(chance(1, 8)), split = 16;
  const std::vector<int64_t> half(static_cast<std::size_t>(outputs), int64_t{1} << (shift - 1));
  const bool fits = bound + half[0] <= INT32_MAX;
  auto factor = operands(outputs, -32768, 32767), offset = operands(outputs, -(1 << 20), 1 << 20);

  Program program(kernels, 2);
  const Storage kind = bytes ? Storage::U8 : Storage::I16;
  const int64_t offset_out = (w.channels * pixels * 2 + 63) / 64 * 64;
  const int source = program.add_buffer(pixels, w.channels, kind, bytes ? 128 : 0, 0);
  const int target = program.add_buffer(out_pixels, outputs, Storage::I16, 0, offset_out);
  if (depthwise) program.add_depthwise(source, w, {stored.data(), outputs, 1, w.kernel_y, w.kernel_x, 1}, wide);
  else
    program.add_conv(source, -1, w, {stored.data(), outputs, each, w.kernel_y, w.kernel_x, groups}, bytes, wide, split,
                     x_low, x_high);
  // Where that is exact for any such weights; see generic/winograd.hpp.
  const bool squares = kernels.winograd && !depthwise && !bytes && groups == 1 && taps == 9 && w.stride_y == 1 &&
                       w.stride_x == 1 && x_bits <= 14 && w_bits <= 12 && 4 * bound <= INT32_MAX;
  if (squares && chance(0, 3)) program.add_winograd({stored.data(), outputs, each, 3, 3, 1}, chance(0, 1) == 0);
  Stage first = stage(wide, !fits, {}, half, shift, -32768, 32767);
  if (wide && !depthwise) {
    first.from_split = true;
    std::vector<int64_t> below, above, rest;
    for (int64_t a : half) below.push_back(a & 0xffff), above.push_back(a >> 16), rest.push_back(shift - split);
    first.addend_low = lanes(below, false), first.addend_high = lanes(above, false), first.shift_high = lanes(rest, false);
  }
  program.add_stage(std::move(first));
  Stage second = stage(false, false, factor, offset, 12, 0, 32767);
  second.store = target;
  program.add_stage(std::move(second));
  program.reserve(batch);
  program.write(source, x.data());
  program.run(0, program.operations());
  std::vector<int64_t> got(static_cast<std::size_t>(batch * outputs * out_pixels));
  program.read(target, got.data());

  for (int64_t n = 0; n < batch; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t p = 0; p < out_pixels; ++p) {
        int64_t sum = 0;
        for (int64_t c = 0; c < group_channels; ++c)
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t y = p / w.out_width * w.stride_y - w.top + tap / w.kernel_x;
            const int64_t z = p % w.out_width * w.stride_x - w.left + tap % w.kernel_x;
            if (y < 0 || y >= w.height || z < 0 || z >= w.width) continue;
            const int64_t channel = depthwise ? o : o / (outputs / groups) * each + c;
            sum += weights[static_cast<std::size_t>((o * group_channels + c) * taps + tap)] *
                   x[static_cast<std::size_t>((n * w.channels + channel) * pixels + y * w.width + z)];
          }
        const auto i = static_cast<std::size_t>(o);
        const int64_t narrow = cast(sum, half[i], shift, -32768, 32767);
        const int64_t expected = cast(narrow * factor[i], offset[i], 12, 0, 32767);
        const int64_t found = got[static_cast<std::size_t>((n * outputs + o) * out_pixels + p)];
        if (found != expected) {
          std::printf("%s: %lld, expected %lld (x %d bits, w %d bits, sum %lld%s)\n", kernels.name,
                      static_cast<long long>(found), static_cast<long long>(expected), x_bits, w_bits,
                      static_cast<long long>(sum), depthwise ? ", depthwise" : "");
          std::exit(1);
        }
      }
  return batch * outputs * out_pixels;
}

}  // namespace

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 200;
  for (const Kernels* kernels : instruction_sets()) {
    if (!kernels->supported()) continue;
    int64_t outputs = 0;
    for (int i = 0; i < rounds; ++i) outputs += one(*kernels);
    std::printf("%s: %lld outputs equal\n", kernels->name, static_cast<long long>(outputs));
  }
  return 0;
}
