// The extension module radixpoint._native: classes, enumerations and keywords, so that each name is checked where it is used.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "engine.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace radixpoint;

namespace {

using Ints = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using Shorts = nb::ndarray<const int16_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

// Zeros behind each parameter of a stage: kernels read whole vectors.
constexpr int64_t PAD = 64;

const Kernels& named(const std::string& name) {
  for (const Kernels* kernels : instruction_sets())
    if (name == kernels->name && kernels->supported()) return *kernels;
  throw std::invalid_argument("instruction set " + name + " is not supported here");
}

Weights weights_of(const Shorts& w, int64_t groups) {
  return {w.data(),
          static_cast<int64_t>(w.shape(0)),
          static_cast<int64_t>(w.shape(1)),
          static_cast<int64_t>(w.shape(2)),
          static_cast<int64_t>(w.shape(3)),
          groups};
}

// One value a channel, then zeros.
Bytes lanes_of(const Ints& values, bool wide) {
  const auto count = static_cast<int64_t>(values.size());
  Bytes result((count + PAD) * (wide ? 8 : 4));
  for (int64_t i = 0; i < count; ++i)
    if (wide) result.as<int64_t>()[i] = values.data()[i];
    else result.as<int32_t>()[i] = static_cast<int32_t>(values.data()[i]);
  return result;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the native engine; see radixpoint.engines.native.";

  nb::enum_<Storage>(m, "Storage")
      .value("U8", Storage::U8)
      .value("I16", Storage::I16)
      .value("I32", Storage::I32)
      .value("I64", Storage::I64);
  nb::enum_<Multiply>(m, "Multiply")
      .value("NONE", Multiply::NONE)
      .value("FULL", Multiply::FULL)
      .value("SHORT", Multiply::SHORT)
      .value("TENSOR", Multiply::TENSOR);
  nb::enum_<Kind>(m, "Kind")
      .value("LINEAR", Kind::LINEAR)
      .value("LOOKUP", Kind::LOOKUP)
      .value("DIVIDE", Kind::DIVIDE);
  nb::enum_<Rounding>(m, "Rounding")
      .value("TRN", Rounding::TRN)
      .value("TRN_ZERO", Rounding::TRN_ZERO)
      .value("RND", Rounding::RND)
      .value("RND_MIN_INF", Rounding::RND_MIN_INF)
      .value("RND_INF", Rounding::RND_INF)
      .value("RND_ZERO", Rounding::RND_ZERO)
      .value("RND_CONV", Rounding::RND_CONV);
  nb::enum_<Correction>(m, "Correction")
      .value("NONE", Correction::NONE)
      .value("SIGN", Correction::SIGN)
      .value("ODD", Correction::ODD);
  nb::enum_<Limit>(m, "Limit")
      .value("CLAMP", Limit::CLAMP)
      .value("WRAP_SIGNED", Limit::WRAP_SIGNED)
      .value("WRAP_UNSIGNED", Limit::WRAP_UNSIGNED);
  nb::enum_<Pooling>(m, "Pooling")
      .value("NONE", Pooling::NONE)
      .value("MAX", Pooling::MAX)
      .value("SUM", Pooling::SUM);
  m.def("bytes_of", &bytes_of);

  nb::class_<Kernels>(m, "InstructionSet")
      .def_ro("name", &Kernels::name)
      .def_prop_ro("supported", [](const Kernels& k) { return k.supported(); })
      .def_ro("byte_dot", &Kernels::byte_dot)
      .def_ro("saturates", &Kernels::saturates)
      .def_prop_ro("winograd", [](const Kernels& k) { return k.winograd != nullptr; })
      .def_ro("lanes", &Kernels::lanes);
  m.def("instruction_sets", [] { return instruction_sets(); }, nb::rv_policy::reference);
  m.def("peak", [](const std::string& name, bool bytes, int64_t rounds) {
    const Kernels& kernels = named(name);
    nb::gil_scoped_release release;
    return kernels.peak(bytes, rounds);
  });

  nb::class_<Window>(m, "Window")
      .def(
          "__init__",
          [](Window* self, int64_t height, int64_t width, int64_t channels, int64_t out_height, int64_t out_width,
             int64_t kernel_y, int64_t kernel_x, int64_t stride_y, int64_t stride_x, int64_t top, int64_t left,
             int64_t dilation_y, int64_t dilation_x) {
            new (self) Window{height,   width,    channels, out_height, out_width,  kernel_y,  kernel_x,
                              stride_y, stride_x, top,      left,       dilation_y, dilation_x};
          },
          nb::kw_only(), "height"_a, "width"_a, "channels"_a, "out_height"_a, "out_width"_a, "kernel_y"_a, "kernel_x"_a,
          "stride_y"_a, "stride_x"_a, "top"_a, "left"_a, "dilation_y"_a, "dilation_x"_a)
      .def_ro("height", &Window::height)
      .def_ro("width", &Window::width)
      .def_ro("channels", &Window::channels)
      .def_ro("out_width", &Window::out_width)
      .def_ro("kernel_x", &Window::kernel_x)
      .def_ro("stride_x", &Window::stride_x)
      .def_ro("left", &Window::left);

  nb::class_<Stage>(m, "Stage")
      .def(
          "__init__",
          [](Stage* self, Kind kind, Rounding rounding, int64_t first, int64_t divisor, int up, const Ints& table,
             bool per_image, bool from_split, bool wide_in, bool wide_work, bool wide_out, Multiply multiply,
             Correction correction, Limit limit, int wrap_bits, int64_t low, int64_t high, int other, int store,
             int64_t store_channel, bool has_left, bool nothing, const Ints& factor, const Ints& left, const Ints& addend,
             const Ints& shift, const Ints& mask, const Ints& other_left, const Ints& addend_rounding,
             const Ints& addend_low, const Ints& addend_high, const Ints& shift_high, bool in_pairs, const Ints& pairs,
             int places) {
            new (self) Stage{};
            Stage& s = *self;
            s.kind = kind, s.rounding = rounding, s.first = first, s.divisor = divisor, s.up = up;
            s.table = lanes_of(table, false);
            s.per_image = per_image;
            s.from_split = from_split;
            s.wide_in = wide_in, s.wide_work = wide_work, s.wide_out = wide_out;
            s.multiply = multiply, s.correction = correction, s.limit = limit;
            s.wrap_bits = wrap_bits, s.low = low, s.high = high;
            s.other = other, s.store = store, s.store_channel = store_channel;
            s.has_left = has_left, s.nothing = nothing;
            s.in_pairs = in_pairs, s.places = places;
            s.pairs = lanes_of(pairs, false);
            s.factor = lanes_of(factor, wide_work);
            s.left = lanes_of(left, wide_work);
            s.addend = lanes_of(addend, wide_work);
            s.shift = lanes_of(shift, wide_work);
            s.mask = lanes_of(mask, wide_work);
            s.other_left = lanes_of(other_left, wide_work);
            s.addend_rounding = lanes_of(addend_rounding, wide_work);
            if (!from_split) return;
            s.addend_low = lanes_of(addend_low, false);
            s.addend_high = lanes_of(addend_high, false);
            s.shift_high = lanes_of(shift_high, false);
          },
          nb::kw_only(), "kind"_a, "rounding"_a, "first"_a, "divisor"_a, "up"_a, "table"_a, "per_image"_a, "from_split"_a, "wide_in"_a, "wide_work"_a, "wide_out"_a, "multiply"_a, "correction"_a, "limit"_a,
          "wrap_bits"_a, "low"_a, "high"_a, "other"_a, "store"_a, "store_channel"_a, "has_left"_a, "nothing"_a, "factor"_a,
          "left"_a, "addend"_a, "shift"_a, "mask"_a, "other_left"_a, "addend_rounding"_a, "addend_low"_a, "addend_high"_a,
          "shift_high"_a, "in_pairs"_a, "pairs"_a, "places"_a);

  nb::class_<Program>(m, "Program")
      .def("__init__", [](Program* self, const std::string& name, int threads) { new (self) Program(named(name), threads); })
      .def("add_buffer", &Program::add_buffer, nb::kw_only(), "pixels"_a, "channels"_a, "storage"_a, "zero"_a, "offset"_a)
      .def(
          "add_conv",
          [](Program& p, int source, int padded, const Window& window, const Shorts& weights, int64_t groups, bool bytes,
             bool wide, int split, int64_t low, int64_t high) {
            const Weights w = weights_of(weights, groups);
            nb::gil_scoped_release release;
            p.add_conv(source, padded, window, w, bytes, wide, split, low, high);
          },
          nb::kw_only(), "source"_a, "padded"_a, "window"_a, "weights"_a, "groups"_a, "bytes"_a, "wide"_a, "split"_a,
          "low"_a, "high"_a)
      .def(
          "add_winograd",
          [](Program& p, const Shorts& weights, bool always) {
            const Weights w = weights_of(weights, 1);
            nb::gil_scoped_release release;
            p.add_winograd(w, always);
          },
          nb::kw_only(), "weights"_a, "always"_a)
      .def(
          "add_depthwise",
          [](Program& p, int source, const Window& window, const Shorts& weights, bool wide) {
            p.add_depthwise(source, window, weights_of(weights, 1), wide);
          },
          nb::kw_only(), "source"_a, "window"_a, "weights"_a, "wide"_a)
      .def("add_pool", &Program::add_pool, nb::kw_only(), "source"_a, "window"_a, "pooling"_a, "wide"_a)
      .def(
          "add_move",
          [](Program& p, int source, int target, const Ints& starts, const Ints& lengths, int64_t fill) {
            p.add_move(source, target, starts.data(), lengths.data(), static_cast<int64_t>(starts.size()), fill);
          },
          nb::kw_only(), "source"_a, "target"_a, "starts"_a, "lengths"_a, "fill"_a)
      .def("add_stage", [](Program& p, Stage& stage) { p.add_stage(std::move(stage)); }, "stage"_a)
      .def("operations", &Program::operations)
      .def("reserve", &Program::reserve)
      .def("run", &Program::run, nb::call_guard<nb::gil_scoped_release>())
      .def("write", [](Program& p, int buffer, const Ints& values) {
        nb::gil_scoped_release release;
        p.write(buffer, values.data());
      })
      .def("read", [](Program& p, int buffer, Writable values) {
        nb::gil_scoped_release release;
        p.read(buffer, values.data());
      });
}
