#include "engine.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>
#include <tuple>

namespace radixpoint {

const std::vector<const Kernels*>& instruction_sets() {
  static const std::vector<const Kernels*> all = {
#ifdef RADIXPOINT_AMX
      &AMX,
#endif
#ifdef RADIXPOINT_X86
      &AVX512VNNI, &AVX2,
#endif
#ifdef RADIXPOINT_ARM
      &I8MM,      &NEON,
#endif
      &PORTABLE};
  return all;
}

namespace {


// One integer of a tensor.
int64_t get(const Buffer& b, const uint8_t* data, int64_t i) {
  switch (b.storage) {
    case Storage::U8: return int64_t{data[i]} - b.zero;
    case Storage::I16: return reinterpret_cast<const int16_t*>(data)[i];
    case Storage::I32: return reinterpret_cast<const int32_t*>(data)[i];
    default: return reinterpret_cast<const int64_t*>(data)[i];
  }
}

void set(const Buffer& b, uint8_t* data, int64_t i, int64_t x) {
  switch (b.storage) {
    case Storage::U8: data[i] = static_cast<uint8_t>(x + b.zero); break;
    case Storage::I16: reinterpret_cast<int16_t*>(data)[i] = static_cast<int16_t>(x); break;
    case Storage::I32: reinterpret_cast<int32_t*>(data)[i] = static_cast<int32_t>(x); break;
    default: reinterpret_cast<int64_t*>(data)[i] = x;
  }
}

// Cuts a reduction into blocks whose sums stay within so many bits, for any operands in low..high.
class Blocks {
 public:
  Blocks(int64_t lanes, int64_t low, int64_t high, int bits)
      : low_(std::min<int64_t>(low, 0)),
        high_(std::max<int64_t>(high, 0)),
        end_(int64_t{1} << (bits - 1)),
        most_(lanes),
        least_(lanes) {}

  // Adds one unit's weights, [lane][operand]; true if a new block has to begin before it.
  bool add(const int16_t* unit, int operands) {
    bool fits = true;
    for (std::size_t lane = 0; lane < most_.size(); ++lane) {
      int64_t most = 0, least = 0;
      for (int i = 0; i < operands; ++i) bounds(unit[lane * operands + i], most, least);
      fits = fits && most_[lane] + most < end_ && least_[lane] + least >= -end_;
    }
    if (!fits) {
      std::fill(most_.begin(), most_.end(), 0);
      std::fill(least_.begin(), least_.end(), 0);
    }
    for (std::size_t lane = 0; lane < most_.size(); ++lane)
      for (int i = 0; i < operands; ++i) bounds(unit[lane * operands + i], most_[lane], least_[lane]);
    return !fits;
  }
  // Whether what was added since the last new block fits.
  bool fits() const {
    for (std::size_t lane = 0; lane < most_.size(); ++lane)
      if (most_[lane] >= end_ || least_[lane] < -end_) return false;
    return true;
  }
  void clear() {
    std::fill(most_.begin(), most_.end(), 0);
    std::fill(least_.begin(), least_.end(), 0);
  }

 private:
  void bounds(int64_t weight, int64_t& most, int64_t& least) const {
    most += weight > 0 ? weight * high_ : weight * low_;
    least += weight > 0 ? weight * low_ : weight * high_;
  }
  int64_t low_, high_, end_;
  std::vector<int64_t> most_, least_;
};

constexpr int64_t LONGEST_RUN = std::numeric_limits<uint8_t>::max();
constexpr int64_t LEAST_RUN = 2;  // on average; below, by the count of instructions, widening each time is as fast

// `zero` is that of a source of bytes, whose products an instruction that `saturates` adds in 16 bits.
void pack(Panel& panel, const Conv& conv, const Weights& w, int lanes, int64_t low, int64_t high, int64_t zero, bool saturates) {
  const int operands = conv.bytes ? 4 : 2;
  const int64_t width = panel.vectors * lanes;
  const int64_t length = conv.rows ? w.kernel_x * w.group_channels : w.group_channels;
  const int64_t units = (length + operands - 1) / operands;
  // Room for every unit to be split in two.
  std::vector<int16_t> unit(static_cast<std::size_t>(width * operands));
  std::vector<uint8_t> packed;
  packed.reserve(static_cast<std::size_t>(conv.taps * units * width * 4));
  Blocks blocks(width, low, high, 32), pairs(2 * width, 0, std::max<int64_t>(high, 0) + zero, 16);

  const auto weight = [&](int64_t lane, int64_t tap, int64_t i) -> int16_t {
    if (lane >= panel.channels || i >= length) return 0;
    const int64_t ky = conv.rows ? tap : tap / w.kernel_x;
    const int64_t kx = conv.rows ? i / w.group_channels : tap % w.kernel_x;
    const int64_t c = conv.rows ? i % w.group_channels : i;
    return w.data[(((panel.channel + lane) * w.group_channels + c) * w.kernel_y + ky) * w.kernel_x + kx];
  };
  const auto emit = [&](int64_t tap, int64_t k) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const int16_t* from = &unit[static_cast<std::size_t>(lane * operands)];
      for (int i = 0; i < operands; ++i) {
        if (conv.bytes) packed.push_back(static_cast<uint8_t>(static_cast<int8_t>(from[i])));
        else {
          packed.push_back(static_cast<uint8_t>(from[i] & 0xff));
          packed.push_back(static_cast<uint8_t>((from[i] >> 8) & 0xff));
        }
      }
    }
    auto& s = panel.segments;
    if (!s.empty() && !s.back().flush && s.back().tap == tap && s.back().start + s.back().units == k) ++s.back().units;
    else s.push_back({static_cast<int32_t>(tap), static_cast<int32_t>(k), 1, 0});
  };
  const auto flush = [&] {
    if (!panel.segments.empty()) panel.segments.back().flush = 1;
  };

  for (int64_t tap = 0; tap < conv.taps; ++tap)
    for (int64_t k = 0; k < units; ++k) {
      for (int64_t lane = 0; lane < width; ++lane)
        for (int i = 0; i < operands; ++i)
          unit[static_cast<std::size_t>(lane * operands + i)] = weight(lane, tap, k * operands + i);
      if (conv.bytes) {  // at most 2**16 terms of 15 bits: the plan sees to it that sums fit
        if (saturates) {
          const bool begins = pairs.add(unit.data(), 2) || panel.runs.empty() || panel.runs.back() == LONGEST_RUN;
          if (begins) panel.runs.push_back(0);
          ++panel.runs.back();
        }
        emit(tap, k);
        continue;
      }
      if (blocks.add(unit.data(), operands)) flush();
      if (blocks.fits()) {
        emit(tap, k);
        continue;
      }
      // Two products of the most negative operands alone reach 2**31: one at a time.
      const std::vector<int16_t> whole = unit;
      for (int part = 0; part < operands; ++part) {
        for (std::size_t i = 0; i < unit.size(); ++i) unit[i] = static_cast<int>(i) % operands == part ? whole[i] : 0;
        emit(tap, k);
        flush();
      }
      blocks.clear();
    }
  panel.segments.back().flush = 1;
  if (conv.taps * units < LEAST_RUN * static_cast<int64_t>(panel.runs.size())) panel.runs.clear();
  panel.runs.push_back(0);
  panel.weights = Bytes(static_cast<int64_t>(packed.size()));
  std::memcpy(panel.weights.data(), packed.data(), packed.size());
}

// Weights of a panel for matrix tiles; see Conv::high_weights.
void pack_tiles(Panel& panel, const Conv& conv, const Weights& w, int lanes) {
  constexpr int64_t DEPTH = 64, QUAD = 4;
  const int64_t run = conv.rows ? w.kernel_x * w.group_channels : w.group_channels;
  const int64_t blocks = conv.depth / DEPTH, plane = blocks * panel.vectors * DEPTH * lanes;
  panel.weights = Bytes(plane * (conv.high_weights ? 2 : 1));
  for (int64_t lane = 0; lane < panel.channels; ++lane)
    for (int64_t k = 0; k < conv.taps * run; ++k) {
      const int64_t tap = k / run, i = k % run;
      const int64_t ky = conv.rows ? tap : tap / w.kernel_x, kx = conv.rows ? i / w.group_channels : tap % w.kernel_x;
      const int64_t c = conv.rows ? i % w.group_channels : i;
      const int16_t x = w.data[(((panel.channel + lane) * w.group_channels + c) * w.kernel_y + ky) * w.kernel_x + kx];
      const int64_t tile = k / DEPTH * panel.vectors + lane / lanes, inside = k % DEPTH;
      const int64_t at = tile * DEPTH * lanes + inside / QUAD * lanes * QUAD + lane % lanes * QUAD + inside % QUAD;
      panel.weights.data()[at] = static_cast<uint8_t>(x & 0xff);
      if (conv.high_weights) panel.weights.data()[plane + at] = static_cast<uint8_t>((x >> 8) & 0xff);
    }
}

// What the zero of a U8 source adds to each sum, negated.
void set_start(Panel& panel, const Weights& w, int lanes, int32_t zero) {
  panel.start = Bytes(panel.vectors * lanes * 4);
  const int64_t each = w.group_channels * w.kernel_y * w.kernel_x;
  for (int64_t lane = 0; lane < panel.channels; ++lane) {
    int64_t sum = 0;
    for (int64_t i = 0; i < each; ++i) sum += w.data[(panel.channel + lane) * each + i];
    panel.start.as<uint32_t>()[lane] = static_cast<uint32_t>(-zero * sum);
  }
}

}  // namespace

int Program::add_buffer(int64_t pixels, int64_t channels, Storage storage, int32_t zero, int64_t offset) {
  buffers_.push_back({pixels, channels, storage, zero, offset});
  return static_cast<int>(buffers_.size()) - 1;
}

void Program::add_conv(int source, int padded, const Window& window, const Weights& weights, bool bytes, bool wide,
                       int split, int64_t low, int64_t high) {
  Conv conv{};
  conv.split = wide ? split : 0;
  conv.source = source;
  conv.padded = padded;
  conv.window = window;
  conv.bytes = bytes;
  conv.rows = padded >= 0;
  conv.wide = wide;
  const bool moves = window.stride_y != 1 || window.stride_x != 1 || window.top || window.left;
  conv.plain = !conv.rows && window.kernel_y * window.kernel_x == 1 && !moves &&
               window.out_height == window.height && window.out_width == window.width;
  conv.taps = conv.rows ? window.kernel_y : window.kernel_y * window.kernel_x;
  const int32_t zero = buffer(source).zero;
  conv.high_source = !bytes && (low < 0 || high > 255);
  conv.high_weights = false;
  const int64_t size = weights.outputs * weights.group_channels * weights.kernel_y * weights.kernel_x;
  for (int64_t i = 0; i < size; ++i) conv.high_weights |= weights.data[i] < -128 || weights.data[i] > 127;
  conv.depth = (weights.group_channels * weights.kernel_y * weights.kernel_x + 63) / 64 * 64;
  conv.zeros = Bytes(weights.kernel_x * window.channels * 2);
  std::memset(conv.zeros.data(), zero, static_cast<std::size_t>(conv.zeros.size()));
  const int64_t outputs = weights.outputs / weights.groups, width = kernels_.lanes * kernels_.vectors;
  for (int64_t group = 0; group < weights.groups; ++group)
    for (int64_t channel = 0; channel < outputs; channel += width) {
      Panel panel{};
      panel.channel = group * outputs + channel;
      panel.channels = std::min(width, outputs - channel);
      panel.source_channel = group * weights.group_channels;
      panel.group_channels = weights.group_channels;
      panel.vectors = static_cast<int>((panel.channels + kernels_.lanes - 1) / kernels_.lanes);
      conv.panels.push_back(std::move(panel));
    }
  if (!pool_) pool_ = std::make_unique<Threads>(threads_);
  pool_->run(static_cast<int64_t>(conv.panels.size()), [&](int64_t i) {
    Panel& panel = conv.panels[static_cast<std::size_t>(i)];
    set_start(panel, weights, kernels_.lanes, zero);
    if (kernels_.tiles) pack_tiles(panel, conv, weights, kernels_.lanes);
    else pack(panel, conv, weights, kernels_.lanes, low, high, zero, kernels_.saturates);
  });
  operations_.push_back({std::move(conv), {}, {}});
}

namespace {

// Which of two kernels was faster, by the shape of the layer; shared by every program of the process.
struct Choices {
  using Shape = std::tuple<const Kernels*, int, int64_t, int64_t, int64_t, int64_t>;
  std::mutex mutex;
  std::map<Shape, bool> fewer;  // whether Winograd's was

  static Choices& shared() {
    static Choices choices;
    return choices;
  }
};

Choices::Shape shape_of(const Kernels& kernels, int threads, const Window& w, int64_t outputs) {
  return {&kernels, threads, w.channels, outputs, w.out_height, w.out_width};
}

}  // namespace

void Program::add_winograd(const Weights& w, bool always) {
  if (!kernels_.winograd) throw std::logic_error("no such kernel in this instruction set");
  Operation& operation = operations_.back();
  const Conv& conv = std::get<Conv>(operation.what);
  if (!always) {
    Choices& choices = Choices::shared();
    const std::unique_lock<std::mutex> guard(choices.mutex, std::try_to_lock);
    if (guard) {
      const auto known = choices.fewer.find(shape_of(kernels_, threads_, conv.window, w.outputs));
      if (known != choices.fewer.end() && !known->second) return;
      always = known != choices.fewer.end();
    }
  }
  Winograd op{conv.source, conv.window, {}, {}};
  op.zeros = Bytes(op.window.channels * 2);
  const int64_t width = kernels_.lanes * kernels_.vectors, units = (w.group_channels + 1) / 2;
  for (int64_t channel = 0; channel < w.outputs; channel += width)
    for (int point = 0; point < 16; ++point) {
      Panel panel{};
      panel.channel = channel;
      panel.channels = std::min(width, w.outputs - channel);
      panel.group_channels = w.group_channels;
      panel.vectors = static_cast<int>((panel.channels + kernels_.lanes - 1) / kernels_.lanes);
      panel.segments.push_back({0, 0, static_cast<int32_t>(units), 1});
      panel.weights = Bytes(units * panel.vectors * kernels_.lanes * 4);
      panel.start = Bytes(panel.vectors * kernels_.lanes * 4);
      op.panels.push_back(std::move(panel));
    }
  pool_->run(static_cast<int64_t>(op.panels.size()) / 16, [&](int64_t p) {
    Panel* const points = op.panels.data() + 16 * p;
    const int64_t lanes = points->vectors * kernels_.lanes;
    for (int64_t lane = 0; lane < points->channels; ++lane)
      for (int64_t c = 0; c < w.group_channels; ++c) {
        const int16_t* const g = w.data + ((points->channel + lane) * w.group_channels + c) * 9;
        int half[12];  // 2G g
        for (int j = 0; j < 3; ++j) {
          half[j] = 2 * g[j];
          half[3 + j] = g[j] + g[3 + j] + g[6 + j];
          half[6 + j] = g[j] - g[3 + j] + g[6 + j];
          half[9 + j] = 2 * g[6 + j];
        }
        for (int i = 0; i < 4; ++i) {
          const int *const h = half + 3 * i;
          const int whole[4] = {2 * h[0], h[0] + h[1] + h[2], h[0] - h[1] + h[2], 2 * h[2]};
          for (int j = 0; j < 4; ++j)
            points[4 * i + j].weights.as<int16_t>()[(c / 2 * lanes + lane) * 2 + c % 2] = static_cast<int16_t>(whole[j]);
        }
      }
  });
  if (always) operation.what = std::move(op);
  else operation.instead = std::move(op);
}

void Program::add_depthwise(int source, const Window& window, const Weights& weights, bool wide) {
  Depthwise d{};
  d.source = source;
  d.window = window;
  d.wide = wide;
  d.padded_channels = weights.outputs + kernels_.lanes;
  const int64_t taps = window.kernel_y * window.kernel_x;
  d.weights = Bytes(taps * d.padded_channels * (wide ? 8 : 4));
  for (int64_t c = 0; c < weights.outputs; ++c)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t at = tap * d.padded_channels + c;
      if (wide) d.weights.as<int64_t>()[at] = weights.data[c * taps + tap];
      else d.weights.as<int32_t>()[at] = weights.data[c * taps + tap];
    }
  d.pairs = (taps + 1) / 2;
  if (wide || buffer(source).storage > Storage::I16 || d.pairs > Depthwise::MOST_PAIRS) d.pairs = 0;
  if (d.pairs) {
    const int32_t zero = buffer(source).zero;
    d.paired = Bytes(d.pairs * d.padded_channels * 4);
    d.start = Bytes(d.padded_channels * 4);
    d.zeros = Bytes((weights.outputs + kernels_.lanes) * 2);
    std::memset(d.zeros.data(), zero, static_cast<std::size_t>(d.zeros.size()));
    for (int64_t c = 0; c < weights.outputs; ++c) {
      int64_t sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int16_t x = weights.data[c * taps + tap];
        d.paired.as<int16_t>()[2 * (tap / 2 * d.padded_channels + c) + tap % 2] = x;
        sum += x;
      }
      d.start.as<uint32_t>()[c] = static_cast<uint32_t>(-zero * sum);
    }
  }
  operations_.push_back({std::move(d), {}, {}});
}

void Program::add_pool(int source, const Window& window, Pooling pooling, bool wide) {
  operations_.push_back({Pool{source, window, pooling, wide}, {}, {}});
}

void Program::add_move(int source, int target, const int64_t* starts, const int64_t* lengths, int64_t runs, int64_t fill) {
  Move move{source, target, fill, {}};
  for (int64_t i = 0; i < runs; ++i) move.runs.push_back({starts[i], lengths[i]});
  operations_.push_back({std::move(move), {}, {}});
}

void Program::add_stage(Stage stage) { operations_.back().chain.push_back(std::move(stage)); }

void Program::reserve(int64_t batch) {
  int64_t size = 0;
  for (const Buffer& b : buffers_) size = std::max(size, (b.offset + b.bytes()) * batch);
  if (arena_.data() == nullptr || arena_.size() < size) arena_ = Bytes(size);
  if (!pool_) pool_ = std::make_unique<Threads>(threads_);
  batch_ = batch;
}

template <class Task>
void Program::over_rows(int64_t rows, int64_t largest, Task task) {
  // A few tasks a thread, so that one which is held up does not hold up all.
  const int64_t tiles = (rows + kernels_.rows - 1) / kernels_.rows;
  const int64_t wanted = std::max<int64_t>(1, tiles / (4 * threads_));
  const int64_t each = std::min(std::max<int64_t>(1, largest / kernels_.rows), wanted) * kernels_.rows;
  pool_->run((rows + each - 1) / each, [&](int64_t i) { task(i * each, std::min(rows, (i + 1) * each)); });
}

template <class Task>
void Program::over_images(Task task) {
  pool_->run(batch_, task);
}

void Program::copy_padded(const Conv& conv) {
  const View view{&buffers_, arena_.data(), batch_};
  const Window& w = conv.window;
  const Buffer& from = buffer(conv.source);
  const Buffer& to = buffer(conv.padded);
  const int64_t pixel = w.channels * bytes_of(from.storage), width = to.pixels / w.height;
  over_images([&](int64_t image) {
    const uint8_t* source = view.data(conv.source) + image * w.height * w.width * pixel;
    uint8_t* target = view.data(conv.padded) + image * w.height * width * pixel;
    for (int64_t y = 0; y < w.height; ++y, source += w.width * pixel, target += width * pixel) {
      std::memset(target, from.zero, static_cast<std::size_t>(w.left * pixel));
      std::memcpy(target + w.left * pixel, source, static_cast<std::size_t>(w.width * pixel));
      std::memset(target + (w.left + w.width) * pixel, from.zero,
                  static_cast<std::size_t>((width - w.left - w.width) * pixel));
    }
  });
}

void Program::run_conv(const Conv& conv, const Chain& chain) {
  if (conv.rows) copy_padded(conv);
  constexpr int64_t LARGEST = 192;  // rows of a task: their operands stay in the second-level cache
  const int64_t rows = batch_ * conv.window.out_height * conv.window.out_width;
  const View view{&buffers_, arena_.data(), batch_, rows};
  const int64_t panels = static_cast<int64_t>(conv.panels.size());
  const int64_t each = std::max<int64_t>(1, LARGEST / kernels_.rows) * kernels_.rows;
  const int64_t blocks = (rows + each - 1) / each;
  const int64_t groups = std::min(panels, std::max<int64_t>(1, (kernels_.tiles ? 1 : 4) * threads_ / blocks));
  pool_->run(blocks * groups, [&](int64_t i) {
    const int64_t block = i / groups, group = i % groups;
    kernels_.conv(conv, chain, view, block * each, std::min(rows, (block + 1) * each), panels * group / groups,
                  panels * (group + 1) / groups);
  });
}

void Program::run_move(const Move& move) {
  const View view{&buffers_, arena_.data(), batch_};
  const Buffer &from = buffer(move.source), &to = buffer(move.target);
  const bool alike = from.storage == to.storage && from.zero == to.zero;
  const int64_t size = bytes_of(from.storage);
  over_images([&](int64_t image) {
    const uint8_t* source = view.data(move.source) + image * from.bytes();
    uint8_t* target = view.data(move.target) + image * to.bytes();
    int64_t at = 0;
    for (const Run& run : move.runs) {
      if (run.start < 0)
        for (int64_t i = 0; i < run.length; ++i) set(to, target, at + i, move.fill);
      else if (alike && run.length > 1)
        std::memcpy(target + at * size, source + run.start * size, static_cast<std::size_t>(run.length * size));
      else
        for (int64_t i = 0; i < run.length; ++i) set(to, target, at + i, get(from, source, run.start + i));
      at += run.length;
    }
  });
}

void Program::run_winograd(const Winograd& op, const Chain& chain) {
  // Transformed operands and sums of a task stay in the second-level cache.
  constexpr int64_t LARGEST = 192 << 10, MOST = 48;
  const int64_t room = LARGEST / (32 * op.window.channels);
  const int64_t each = std::max<int64_t>(2, std::min(MOST, room) / kernels_.rows) * kernels_.rows;
  const int64_t squares = batch_ * op.squares_y() * op.squares_x(), panels = static_cast<int64_t>(op.panels.size()) / 16;
  const View view{&buffers_, arena_.data(), batch_, batch_ * op.window.out_height * op.window.out_width};
  const int64_t blocks = (squares + each - 1) / each;
  const int64_t groups = std::min(panels, std::max<int64_t>(1, 4 * threads_ / blocks));
  pool_->run(blocks * groups, [&](int64_t i) {
    const int64_t block = i / groups, group = i % groups;
    kernels_.winograd(op, chain, view, block * each, std::min(squares, (block + 1) * each), panels * group / groups,
                      panels * (group + 1) / groups);
  });
}

void Program::choose(Operation& operation) {
  Choices& choices = Choices::shared();
  // Whoever cannot look now computes directly, and decides later: another thread tries, or did when this process was forked.
  const std::unique_lock<std::mutex> guard(choices.mutex, std::try_to_lock);
  if (!guard) return;
  const Panel& last = operation.instead->panels.back();
  const auto shape = shape_of(kernels_, threads_, operation.instead->window, last.channel + last.channels);
  auto known = choices.fewer.find(shape);
  if (known == choices.fewer.end()) {
    using Clock = std::chrono::steady_clock;
    auto direct = Clock::duration::max(), fewer = Clock::duration::max();
    for (int repeat = 0; repeat < 3; ++repeat) {
      const auto start = Clock::now();
      run_conv(std::get<Conv>(operation.what), operation.chain);
      const auto between = Clock::now();
      run_winograd(*operation.instead, operation.chain);
      direct = std::min(direct, between - start);
      fewer = std::min(fewer, Clock::now() - between);
    }
    known = choices.fewer.emplace(shape, fewer < direct).first;
  }
  if (known->second) operation.what = std::move(*operation.instead);
  operation.instead.reset();
}

void Program::run_operation(const Operation& operation) {
  const Chain& chain = operation.chain;
  if (const auto* conv = std::get_if<Conv>(&operation.what)) run_conv(*conv, chain);
  if (const auto* op = std::get_if<Winograd>(&operation.what)) run_winograd(*op, chain);
  if (const auto* d = std::get_if<Depthwise>(&operation.what)) {
    const int64_t rows = batch_ * d->window.out_height * d->window.out_width;
    const View view{&buffers_, arena_.data(), batch_, rows};
    over_rows(rows, 192, [&](int64_t a, int64_t b) { kernels_.depthwise(*d, chain, view, a, b); });
  }
  if (const auto* pool = std::get_if<Pool>(&operation.what)) {
    const int64_t rows = batch_ * pool->window.out_height * pool->window.out_width;
    const View view{&buffers_, arena_.data(), batch_, rows};
    over_rows(rows, 192, [&](int64_t a, int64_t b) { kernels_.pool(*pool, chain, view, a, b); });
  }
  if (const auto* move = std::get_if<Move>(&operation.what)) run_move(*move);
}

void Program::run(int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    Operation& operation = operations_[static_cast<std::size_t>(index)];
    if (operation.instead) choose(operation);
    run_operation(operation);
  }
}

namespace {

template <class T>
void scatter(const Buffer& b, const int64_t* values, uint8_t* data) {
  T* const to = reinterpret_cast<T*>(data);
  for (int64_t c = 0; c < b.channels; ++c)
    for (int64_t p = 0; p < b.pixels; ++p) to[p * b.channels + c] = static_cast<T>(*values++ + b.zero);
}

}  // namespace

void Program::write(int index, const int64_t* values) {
  const Buffer& b = buffer(index);
  uint8_t* data = View{&buffers_, arena_.data(), batch_}.data(index);
  over_images([&](int64_t image) {
    const int64_t* from = values + image * b.pixels * b.channels;
    uint8_t* to = data + image * b.bytes();
    switch (b.storage) {
      case Storage::U8: return scatter<uint8_t>(b, from, to);
      case Storage::I16: return scatter<int16_t>(b, from, to);
      case Storage::I32: return scatter<int32_t>(b, from, to);
      default: return scatter<int64_t>(b, from, to);
    }
  });
}

void Program::read(int index, int64_t* values) {
  const Buffer& b = buffer(index);
  const uint8_t* data = View{&buffers_, arena_.data(), batch_}.data(index);
  over_images([&](int64_t image) {
    int64_t* to = values + image * b.pixels * b.channels;
    const uint8_t* from = data + image * b.bytes();
    for (int64_t p = 0; p < b.pixels; ++p)
      for (int64_t c = 0; c < b.channels; ++c) to[c * b.pixels + p] = get(b, from, p * b.channels + c);
  });
}

}  // namespace radixpoint
