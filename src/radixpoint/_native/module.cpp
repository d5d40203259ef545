// The extension module radixpoint._native.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "engine.hpp"

namespace nb = nanobind;
using namespace radixpoint;

namespace {

using Ints = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using Writable = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using Shorts = nb::ndarray<const int16_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

const Kernels& named(const std::string& name) {
  for (const Kernels* kernels : instruction_sets())
    if (name == kernels->name && kernels->supported()) return *kernels;
  throw std::invalid_argument("instruction set " + name + " is not supported here");
}

Window window_of(const std::vector<int64_t>& v) {
  if (v.size() != 13) throw std::invalid_argument("a window has 13 numbers");
  return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12]};
}

Weights weights_of(const Shorts& w, int64_t groups) {
  return {w.data(),
          static_cast<int64_t>(w.shape(0)),
          static_cast<int64_t>(w.shape(1)),
          static_cast<int64_t>(w.shape(2)),
          static_cast<int64_t>(w.shape(3)),
          groups};
}

// One value a channel, then zeros for whole vectors beyond the last.
Bytes lanes_of(const Ints& values, bool wide) {
  const auto count = static_cast<int64_t>(values.size());
  Bytes result(count * (wide ? 8 : 4));
  for (int64_t i = 0; i < count; ++i)
    if (wide) result.as<int64_t>()[i] = values.data()[i];
    else result.as<int32_t>()[i] = static_cast<int32_t>(values.data()[i]);
  return result;
}

Stage stage_of(const nb::dict& d) {
  const auto integer = [&](const char* key) { return nb::cast<int64_t>(d[key]); };
  Stage s{};
  s.wide_in = integer("wide_in");
  s.wide_work = integer("wide_work");
  s.wide_out = integer("wide_out");
  s.multiply = static_cast<Multiply>(integer("multiply"));
  s.correction = static_cast<Correction>(integer("correction"));
  s.limit = static_cast<Limit>(integer("limit"));
  s.wrap_bits = static_cast<int>(integer("wrap_bits"));
  s.low = integer("low");
  s.high = integer("high");
  s.other = static_cast<int>(integer("other"));
  s.store = static_cast<int>(integer("store"));
  s.store_channel = integer("store_channel");
  s.has_left = integer("has_left");
  s.nothing = integer("nothing");
  const auto lanes = [&](const char* key) { return lanes_of(nb::cast<Ints>(d[key]), s.wide_work); };
  s.factor = lanes("factor");
  s.left = lanes("left");
  s.addend = lanes("addend");
  s.shift = lanes("shift");
  s.mask = lanes("mask");
  s.other_left = lanes("other_left");
  s.addend_rounding = lanes("addend_rounding");
  s.from_split = integer("from_split");
  if (s.from_split) {
    s.addend_low = lanes_of(nb::cast<Ints>(d["addend_low"]), false);
    s.addend_high = lanes_of(nb::cast<Ints>(d["addend_high"]), false);
    s.shift_high = lanes_of(nb::cast<Ints>(d["shift_high"]), false);
  }
  return s;
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels of the native engine; see radixpoint.engines.native.";

  m.def("instruction_sets", [] {
    nb::list all;
    for (const Kernels* kernels : instruction_sets()) {
      nb::dict d;
      d["name"] = kernels->name;
      d["supported"] = kernels->supported();
      d["byte_dot"] = kernels->byte_dot;
      d["lanes"] = kernels->lanes;
      all.append(d);
    }
    return all;
  });
  m.def("peak", [](const std::string& name, bool bytes, int64_t rounds) {
    const Kernels& kernels = named(name);
    nb::gil_scoped_release release;
    return kernels.peak(bytes, rounds);
  });

  nb::class_<Program>(m, "Program")
      .def("__init__", [](Program* self, const std::string& name, int threads) { new (self) Program(named(name), threads); })
      .def("add_buffer", [](Program& p, int64_t pixels, int64_t channels, int storage, int32_t zero, int64_t offset) {
        return p.add_buffer(pixels, channels, static_cast<Storage>(storage), zero, offset);
      })
      .def("add_conv", [](Program& p, int source, int padded, const std::vector<int64_t>& window, const Shorts& weights,
                          int64_t groups, bool bytes, bool wide, int split, int64_t low, int64_t high) {
        const Weights w = weights_of(weights, groups);
        nb::gil_scoped_release release;
        p.add_conv(source, padded, window_of(window), w, bytes, wide, split, low, high);
      })
      .def("add_depthwise", [](Program& p, int source, const std::vector<int64_t>& window, const Shorts& weights, bool wide) {
        p.add_depthwise(source, window_of(window), weights_of(weights, 1), wide);
      })
      .def("add_pool", [](Program& p, int source, const std::vector<int64_t>& window, int pooling, bool wide) {
        p.add_pool(source, window_of(window), static_cast<Pooling>(pooling), wide);
      })
      .def("add_flatten", &Program::add_flatten)
      .def("add_stage", [](Program& p, const nb::dict& d) { p.add_stage(stage_of(d)); })
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
