// Builds a program step by step and runs it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace radixpoint {

// The instruction sets compiled in, best first.
const std::vector<const Kernels*>& instruction_sets();

// Weights as given: 16-bit integers [output channel][channel of its group][ky][kx].
struct Weights {
  const int16_t* data;
  int64_t outputs, group_channels, kernel_y, kernel_x, groups;
};

class Program {
 public:
  Program(const Kernels& kernels, int threads) : kernels_(kernels), threads_(threads) {}

  int add_buffer(int64_t pixels, int64_t channels, Storage storage, int32_t zero, int64_t offset);
  // `low`..`high` is the proven range of the source; `wide` asks for sums beyond 32 bits, split at `split`; `rows` for whole rows of
  // the window as taps, over the source copied to `padded`.
  void add_conv(int source, int padded, const Window& window, const Weights& weights, bool bytes, bool wide, int split,
                int64_t low, int64_t high);
  // The convolution added last with fewer products, for sources and transformed weights within 16 bits and four times its sums
  // within 32: always, or where a first run of both finds that faster.
  void add_winograd(const Weights& weights, bool always);
  void add_depthwise(int source, const Window& window, const Weights& weights, bool wide);
  void add_pool(int source, const Window& window, Pooling pooling, bool wide);
  // Copies elements: the target, channels last, is made of runs of the source, channels last; one that starts at -1 is
  // filled.
  void add_move(int source, int target, const int64_t* starts, const int64_t* lengths, int64_t runs, int64_t fill);
  void add_stage(Stage stage);

  int64_t operations() const { return static_cast<int64_t>(operations_.size()); }
  const Buffer& buffer(int index) const { return buffers_.at(static_cast<std::size_t>(index)); }

  void reserve(int64_t batch);  // arena for so many images
  void run(int64_t begin, int64_t end);
  // Integers channels first, [image][channel][pixel], of a buffer.
  void write(int buffer, const int64_t* values);
  void read(int buffer, int64_t* values);

 private:
  struct Run {
    int64_t start, length;
  };
  struct Move {
    int source, target;
    int64_t fill;
    std::vector<Run> runs;
  };
  struct Operation {
    std::variant<Conv, Winograd, Depthwise, Pool, Move> what;
    Chain chain;
    std::optional<Winograd> instead;  // of a convolution, until it is known which is faster
  };

  void run_operation(const Operation& operation);
  void run_conv(const Conv& conv, const Chain& chain);
  void run_winograd(const Winograd& op, const Chain& chain);
  // Keeps the faster of an operation and what may run instead, if nobody else is trying two of them.
  void choose(Operation& operation);
  void run_move(const Move& move);
  void copy_padded(const Conv& conv);
  // In row blocks of a multiple of a tile.
  template <class Task>
  void over_rows(int64_t rows, int64_t largest, Task task);
  template <class Task>
  void over_images(Task task);

  const Kernels& kernels_;
  int threads_;
  std::vector<Buffer> buffers_;
  std::vector<Operation> operations_;
  Bytes arena_;
  int64_t batch_ = 0;
  std::unique_ptr<Threads> pool_;
};

}  // namespace radixpoint
