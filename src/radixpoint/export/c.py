"""C99: the whole network with ``stdint.h`` only, in a buffer of the caller's, no float, no malloc."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np

from radixpoint.data import Preprocessing
from radixpoint.engines import quantize_images
from radixpoint.errors import ExportError
from radixpoint.export.c_loops import Loops
from radixpoint.export.cortex_m import programs
from radixpoint.export.source import TracedProgram, Writer, build, rows
from radixpoint.export.target import EVERY
from radixpoint.export.tools import tool
from radixpoint.ir.memory import arenas, bits_of, c_type, footprint, tensor_bytes
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Function, Ints, Plan, extents

WARNINGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
ARRAYS_UP_TO = 1 << 21
"""Stored parameters beyond which they become a binary file: compilers take minutes over larger arrays."""


def numpy_type(c: str) -> str:
    """The little-endian dtype of a type of ``stdint.h``."""
    return f"<{'u' if c.startswith('u') else 'i'}{bits_of(c) // 8}"


def pixel_values(network: IntGraph) -> Ints | None:
    """The stored integer of each value 0..255 of a pixel: (channels, 256), channels as the network has them.

    None if that depends on more than the pixel, or the network does not say how its images were prepared.
    """
    text = network.metadata.get("preprocessing", "null")
    prepared = msgspec.json.decode(text, type=Preprocessing | None)
    shape = network.tensors[network.input].shape
    if prepared is None or prepared.mean_image is not None or len(shape) != 3:
        return None
    if prepared.channels != shape[0]:
        return None
    values = np.broadcast_to(np.arange(256)[:, None, None, None], (256, shape[0], 1, 1))
    return quantize_images(network, prepared.normalize(values))[:, :, 0, 0].T


def pixel_order(network: IntGraph) -> str:
    """Order of the channels that ``pixel_values`` is for: RGB, BGR, L, or stored."""
    return msgspec.json.decode(network.metadata["preprocessing"], type=Preprocessing).channel_order


class Source:
    """The source files of one network.

    Args:
        network: a verified IntGraph.
        blob: parameters as a binary file instead of arrays; None chooses by their number.
    """

    def __init__(self, network: IntGraph, blob: bool | None = None) -> None:
        self.network, self.plan = network, Plan(network, fused=True)
        count = sum(p.data.size for p in network.parameters.values())
        self.blob = count > ARRAYS_UP_TO if blob is None else blob
        self._parameters: dict[str, Ints] = {}  # member -> values in memory order
        self.loops = Loops(self.plan, self._member)
        self._functions = [self._function(f) for f in self.plan.functions]
        self.arenas = arenas(self.plan)
        table = pixel_values(network)
        self.classifies = table is not None and len(network.tensors[network.output].shape) == 1
        if table is not None and self.classifies:
            self._member("pixel_values", table)

    def type_of(self, name: str) -> str:
        return self.loops.type_of(name)

    def files(self) -> dict[str, bytes]:
        texts = {"network.h": self._header(), "network.c": self._code()}
        for name in ("radixpoint.h", "radixpoint_dsp.h", "harness.c", "CMakeLists.txt"):
            texts[name] = (files("radixpoint.export") / "c" / name).read_text()
        texts["README.md"] = self._readme()
        result = {name: text.encode() for name, text in texts.items()}
        if self.blob:
            result["parameters.bin"] = b"".join(
                values.astype(numpy_type(t)).tobytes() for _, t, values in self._members
            )
        elif self._members:
            result["parameters.c"] = self._arrays().encode()
        return result

    def _readme(self) -> str:
        image, logits = (self.network.tensors[n] for n in (self.network.input, self.network.output))
        height, width, channels = extents(image.shape)
        lines = [
            "# A network in C99",
            "",
            "Integers only; no library, no float, no allocation. `network.h` is what you include.",
            "",
            "| | bytes |",
            "|---|---|",
            f"| parameters (flash) | {self._flash:,} |",
            f"| buffer between the layers (RAM, `struct radixpoint_buffer`) | {self.arenas.bytes:,} |",
            f"| image | {tensor_bytes(self.network, self.network.input):,} |",
            f"| results | {sum(tensor_bytes(self.network, n) for n in self.network.outputs):,} |",
            "",
            "| call | what it does |",
            "|---|---|",
            f"| `radixpoint_run` | {height} x {width} x {channels} stored integers ({image.format}) to "
            f"results ({logits.format}) |",
        ]
        if self.blob:
            lines.append("| `parameters.bin` | the parameters: pass its address, aligned to eight bytes |")
        if self.classifies:
            lines.append("| `radixpoint_classify` | bytes of a camera to the number of the best class |")
        lines += [
            "",
            "Both are reentrant: what changes is in the buffer that you pass.",
            "`cmake -S . -B ../build && cmake --build ../build` makes a library. With `-DRADIXPOINT_DSP=ON`",
            "it uses the DSP instructions of Arm Cortex-M: the same integers. `radixpoint verify` runs what",
            "is here, and compares every integer; `harness.c` is only for that.",
            "",
            "Bytes by function: RAM of the tensors that are alive while it runs, flash of its parameters.",
            "A layer stands in two rows where one function rounds its operand, and the next computes it.",
            "",
            "| function | layers | RAM | flash |",
            "|---|---|---|---|",
        ]
        for own in footprint(self.network).layers:
            names = ", ".join(re.sub(r"[^\w.:/-]+", "_", name) for name in own.layers)
            lines.append(f"| `{own.function}` | {names} | {own.ram:,} | {own.flash:,} |")
        return "\n".join([*lines, ""])

    # -------------------------------------------------------------------------------- parameters

    @cached_property
    def _members(self) -> list[tuple[str, str, Ints]]:
        """Name, type, values; widest first, so that the structure has no padding."""
        typed = [
            (name, c_type(int(values.min()), int(values.max())), values.ravel())
            for name, values in self._parameters.items()
        ]
        typed.sort(key=lambda member: -bits_of(member[1]))
        widest = bits_of(typed[0][1]) // 8 if typed else 1
        size = sum(values.size * bits_of(t) // 8 for _, t, values in typed)
        if not typed or size % widest:
            fill = (widest - size % widest) % widest or 1
            typed.append(("unused", "int8_t", np.zeros(fill, np.int64)))
        return typed

    @property
    def _flash(self) -> int:
        """Bytes of all members."""
        return sum(values.size * bits_of(t) // 8 for _, t, values in self._members)

    def _arrays(self) -> str:
        parts = ['#include "network.h"\n\nconst struct radixpoint_parameters radixpoint_parameters = {']
        for name, _, values in self._members:
            parts.append(f"  /* {name} */ {{\n{rows(values.tolist(), '    ')}\n  }},")
        return "\n".join([*parts, "};\n"])

    def _member(self, name: str, values: Ints) -> str:
        self._parameters[name] = values
        return f"p->{name}"

    # ------------------------------------------------------------------------------------ header

    def _header(self) -> str:
        image, logits = (self.network.tensors[n] for n in (self.network.input, self.network.output))
        height, width, channels = extents(image.shape)
        members = "\n".join(f"  {t} {name}[{values.size}];" for name, t, values in self._members)
        blob = (
            "#define RADIXPOINT_PARAMETERS_BLOB /* parameters.bin is the memory image of the structure */\n"
        )
        total = sum(int(np.prod(t.shape)) for t in self.network.tensors.values())
        extern = "extern const struct radixpoint_parameters radixpoint_parameters;\n\n"
        return (
            "#ifndef RADIXPOINT_NETWORK_H\n#define RADIXPOINT_NETWORK_H\n\n#include <stdint.h>\n\n"
            f"/* image: {image.format}, {height} x {width} x {channels} (height, width, channel) */\n"
            f"#define RADIXPOINT_IMAGE_VALUES {height * width * channels}\n"
            f"typedef {self.type_of(self.network.input)} radixpoint_image_t;\n\n"
            f"/* logits: {logits.format} */\n"
            f"#define RADIXPOINT_LOGITS {int(np.prod(logits.shape))}\n"
            f"typedef {self.type_of(self.network.output)} radixpoint_logit_t;\n\n"
            f"{self._other_outputs()}"
            f"{blob if self.blob else ''}struct radixpoint_parameters {{\n{members}\n}};\n"
            f"{'' if self.blob else extern}"
            f"{self._memory()}"
            "/* Reentrant: everything that changes is in the caller's buffer. */\n"
            "void radixpoint_run(const struct radixpoint_parameters *p, const radixpoint_image_t *image,\n"
            f"                    radixpoint_logit_t *logits{self._other_arguments()},\n"
            "                    struct radixpoint_buffer *buffer);\n\n"
            f"{self._classify_header() if self.classifies else ''}"
            "#ifdef RADIXPOINT_TRACE\n"
            f"#define RADIXPOINT_TRACE_VALUES {total}\n"
            f"extern const int32_t radixpoint_trace_offset[{len(self.plan.order)}];\n"
            "#endif\n\n#endif\n"
        )

    def _other_outputs(self) -> str:
        """Types and sizes of results beyond the first; the harness lists them by the macro."""
        if not self.network.other_outputs:
            return ""
        lines = []
        for number, name in enumerate(self.network.other_outputs, 2):
            tensor = self.network.tensors[name]
            lines.append(
                f"/* output {number}: {tensor.format}, {' x '.join(map(str, extents(tensor.shape)))} */"
            )
            lines.append(f"#define RADIXPOINT_OUTPUT{number} {int(np.prod(tensor.shape))}")
            lines.append(f"typedef {self.type_of(name)} radixpoint_output{number}_t;")
        listed = " ".join(f"X({number})" for number in range(2, len(self.network.outputs) + 1))
        return "\n".join([*lines, f"#define RADIXPOINT_OTHER_OUTPUTS(X) {listed}", "", ""])

    def _memory(self) -> str:
        """The buffer, and what it all takes."""
        members = "".join(
            f"  int{bits}_t arena{bits}[{size // (bits // 8)}];\n"
            for bits, size in sorted(self.arenas.sizes.items(), reverse=True)
        )
        return (
            "/* What lies between the layers. */\n"
            f"#define RADIXPOINT_BUFFER_BYTES {self.arenas.bytes}\n"
            f"#define RADIXPOINT_PARAMETERS_BYTES {self._flash}\n"
            f"struct radixpoint_buffer {{\n{members or '  int8_t unused[1];' + chr(10)}}};\n\n"
        )

    def _classify_header(self) -> str:
        height, width, channels = extents(self.network.tensors[self.network.input].shape)
        order = {"BGR": "red, green, blue", "RGB": "red, green, blue", "L": "brightness"}
        what = order.get(pixel_order(self.network), "channels as they are stored")
        others = "".join(
            f"  radixpoint_output{n}_t output{n}[RADIXPOINT_OUTPUT{n}];\n"
            for n in range(2, len(self.network.outputs) + 1)
        )
        return (
            "struct radixpoint_memory {\n"
            "  struct radixpoint_buffer buffer;\n"
            "  radixpoint_image_t image[RADIXPOINT_IMAGE_VALUES];\n"
            "  radixpoint_logit_t logits[RADIXPOINT_LOGITS];\n"
            f"{others}"
            "};\n\n"
            f"/* The best class of {height} x {width} x {channels} bytes 0..255 (height, width, {what}),\n"
            "   whose size is the network's; of several that are equal, the first. */\n"
            "int32_t radixpoint_classify(const struct radixpoint_parameters *p, const uint8_t *pixels,\n"
            "                            struct radixpoint_memory *memory);\n\n"
        )

    def _classify(self, w: Writer) -> None:
        height, width, channels = extents(self.network.tensors[self.network.input].shape)
        w("int32_t radixpoint_classify(const struct radixpoint_parameters *p, const uint8_t *pixels,")
        w.open("                            struct radixpoint_memory *memory)")
        w("int32_t best = 0;")
        w.open(f"for (int32_t place = 0; place < {height * width}; ++place)")
        w.open(f"for (int32_t c = 0; c < {channels}; ++c)")
        read = f"{channels - 1} - c" if pixel_order(self.network) == "BGR" else "c"
        w(f"const int32_t first = place * {channels};")
        w("memory->image[first + c] = p->pixel_values[c * 256 + pixels[first + " + read + "]];")
        w.close(2)
        others = "".join(f", memory->output{n}" for n in range(2, len(self.network.outputs) + 1))
        w(f"radixpoint_run(p, memory->image, memory->logits{others}, &memory->buffer);")
        w.open("for (int32_t i = 1; i < RADIXPOINT_LOGITS; ++i)")
        w("if (memory->logits[i] > memory->logits[best]) best = i;")
        w.close()
        w("return best;")
        w.close()

    def _other_arguments(self) -> str:
        numbers = range(2, len(self.network.outputs) + 1)
        return "".join(f", radixpoint_output{n}_t *output{n}" for n in numbers)

    # -------------------------------------------------------------------------------------- code

    def _code(self) -> str:
        w = Writer()
        w('#include "network.h"')
        w('#include "radixpoint.h"')
        w()
        w("#ifdef RADIXPOINT_TRACE")
        sizes = [int(np.prod(self.network.tensors[n].shape)) for n in self.plan.order]
        offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        w(f"const int32_t radixpoint_trace_offset[{len(sizes)}] = {{\n{rows(offsets)}\n}};")
        w("#endif")
        for text in (*self.loops.kernels.values(), *self._functions):
            w()
            w(text)
        w()
        self._run(w)
        if self.classifies:
            w()
            self._classify(w)
        return "\n".join(w.lines) + "\n"

    def _run(self, w: Writer) -> None:
        network, plan = self.network, self.plan
        places: dict[str, str] = {network.input: "image", network.output: "logits"}
        places |= {name: f"output{n}" for n, name in enumerate(network.other_outputs, 2)}
        for name, (bits, first) in self.arenas.places.items():
            places[name] = f"({self.type_of(name)} *)((unsigned char *)buffer->arena{bits} + {first})"
        w("void radixpoint_run(const struct radixpoint_parameters *p, const radixpoint_image_t *image,")
        w(f"                    radixpoint_logit_t *logits{self._other_arguments()},")
        w.open("                    struct radixpoint_buffer *buffer)")
        w("(void)buffer;")
        for function in plan.functions:
            arguments = ", ".join(["p", *(places[n] for n in (*function.reads, *function.writes))])
            w(f"{function.name}({arguments});")
        w.close()

    def _function(self, function: Function) -> str:
        w = Writer()
        names = self.plan.identifiers
        for name in (*function.reads, *function.writes):
            tensor = self.network.tensors[name]
            w(f"/* {names[name]}: {tensor.format}, {' x '.join(map(str, extents(tensor.shape)))} */")
        arguments = ["const struct radixpoint_parameters *p"]
        arguments += [f"const {self.type_of(n)} *{names[n]}" for n in function.reads]
        arguments += [f"{self.type_of(n)} *{names[n]}" for n in function.writes]
        joined = (",\n" + " " * (len(function.name) + 13)).join(arguments)
        w.open(f"static void {function.name}({joined})")
        w("(void)p;")
        for nest in function.nests:
            self.loops.nest(w, nest)
        w.close()
        return "\n".join(w.lines)


class CTarget:
    """``--to c``."""

    name = "c"
    summary = "the network as C99: integers only, no library"
    options: tuple[str, ...] = ("parameters",)
    steps = EVERY
    several_outputs = True
    machines: tuple[str, ...] = ("cortex-m7",)

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``; option ``parameters``: ``arrays`` or ``blob``."""
        chosen = options.get("parameters")
        if chosen not in (None, "arrays", "blob"):
            raise ExportError(f"option parameters={chosen!r}: expected arrays or blob")
        return Source(network, None if chosen is None else chosen == "blob").files()

    def open_on(
        self, machine: str, folder: Path, network: IntGraph, scratch: Path
    ) -> dict[str, TracedProgram]:
        """See ``radixpoint.export.target.Portable``."""
        return programs(folder, network, scratch, WARNINGS[1:])

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, TracedProgram]:
        """See ``radixpoint.export.target.Target``."""
        cc = tool("CC", "cc", "gcc", "clang")
        sources = [
            str(folder / n) for n in ("network.c", "parameters.c", "harness.c") if (folder / n).exists()
        ]
        blob = [str(folder / "parameters.bin")] if (folder / "parameters.bin").exists() else []

        def make(traces: bool) -> list[str]:
            program = scratch / ("traced" if traces else "plain")
            sanitized = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover", "-DRADIXPOINT_TRACE")
            flags = sanitized if traces else ("-O3",)
            build(
                [*cc, *WARNINGS, *flags, f"-I{folder}", *sources, "-o", str(program)], f"{folder}/network.c"
            )
            return [str(program), *blob]

        return {"c": TracedProgram(network, make)}
