"""What every importer builds with: tensors as a framework sees them, layers, and refusals.

A framework moves axes about: it transposes to channels-last and back, squeezes, flattens, splits channels
into groups. None of that computes anything. A ``View`` notes which parts of one of our tensors make up each
axis of theirs; such moves only change the view, and vanish where they cancel. Only where a layer needs our
own order of elements and the view has another, a ``rearrange`` (or ``flatten``) layer is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.functions import FUNCTIONS
from radixpoint.errors import GraphError, ModelError, UnsupportedError
from radixpoint.ir.domains import check_attributes, check_shape
from radixpoint.ir.graph import Graph, Layer, build_graph
from radixpoint.ir.ops import LAYERS, Shape

Array = NDArray[Any]
WINDOW = {"strides": (1, 1), "pads": (0, 0, 0, 0)}


class Refused(Exception):
    """Why one node cannot become a layer."""


@dataclass(frozen=True, slots=True)
class View:
    """One of our tensors as a framework sees it; the batch is left out.

    Attributes:
        name: our tensor.
        factors: sizes whose product, axis by axis of ours, is our shape; those of size 1 are left out.
        axes: for each axis of theirs the factors that it is made of, slowest first; none for size 1.
    """

    name: str
    factors: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> Shape:
        """Theirs."""
        return tuple(math.prod(self.factors[f] for f in axis) for axis in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """Factors in the order of their elements."""
        return tuple(f for axis in self.axes for f in axis)

    @property
    def in_order(self) -> bool:
        """Whether their elements come in our order."""
        return self.order == tuple(range(len(self.factors)))

    def permuted(self, order: Sequence[int]) -> View:
        """With their axes in another order."""
        return View(self.name, self.factors, tuple(self.axes[i] for i in order))

    def ours(self, values: Array, shape: Shape) -> Array:
        """Their values (batch first) as ours, of our ``shape``."""
        batch = len(values)
        split = values.reshape(batch, *(self.factors[f] for f in self.order))
        back = np.argsort(self.order)
        return split.transpose(0, *(back + 1)).reshape(batch, *shape)


def whole(name: str, shape: Shape) -> View:
    """Our tensor as it is."""
    factors = tuple(size for size in shape if size != 1)
    axes, count = [], 0
    for size in shape:
        axes.append((count,) if size != 1 else ())
        count += size != 1
    return View(name, factors, tuple(axes))


class Builder:
    """Layers of a network under construction.

    Args:
        source: what is imported, for messages.
        input_shape: (channels, height, width).

    Attributes:
        notes: what a user should know of the import.
        refused: (operator, name, why) of every node that is not supported.
    """

    def __init__(self, source: str, input_shape: Shape) -> None:
        self.source = source
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.layers: list[Layer] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}
        self.refused: list[tuple[str, str, str]] = []
        self.notes: list[str] = []
        self.label = ""
        self._moved: dict[tuple[View, Shape], str] = {}

    # ---------------------------------------------------------------------------------- layers

    def layer(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Array] | None = None,
        label: str | None = None,
    ) -> str:
        """Append a layer, named after the node at hand, and return the name of its result.

        Raises:
            Refused: operands that do not fit it.
        """
        label = label or self.label or op
        name, count = label, 1
        while name in self.shapes:
            count += 1
            name = f"{label}_{count}"
        attributes = dict(attributes or {})
        stored = {role: np.asarray(value, np.float32) for role, value in (arrays or {}).items()}
        try:
            check_attributes(attributes, LAYERS[op].attributes, stored=False)
            shape = LAYERS[op].shape(attributes, [self.shapes[i] for i in inputs], stored)
            check_shape(shape)
        except GraphError as error:
            raise Refused(str(error)) from None
        if "bias" in stored and stored["bias"].shape != shape[:1]:
            raise Refused(f"a bias of shape {stored['bias'].shape}: expected {shape[:1]}")
        self.shapes[name] = shape
        keys = {role: f"{name}.{role}" for role in stored}
        self.layers.append(Layer(name, op, tuple(inputs), attributes, keys))
        self.parameters.update({keys[role]: value for role, value in stored.items()})
        return name

    def graph(self, outputs: Sequence[View]) -> Graph:
        """The network, without layers that no output depends on.

        Args:
            outputs: its results, as ``output`` gives them.

        Raises:
            UnsupportedError: something was refused.
            ModelError: it computes nothing.
        """
        if self.refused:
            raise UnsupportedError(self.source, self.refused)
        names = list(dict.fromkeys(view.name for view in outputs))
        wanted, layers = set(names), []
        for layer in reversed(self.layers):
            if layer.name in wanted:
                layers.append(layer)
                wanted.update(layer.inputs)
        if not layers:
            raise ModelError(f"{self.source}: computes nothing: expected layers")
        return build_graph(
            self.source,
            "input",
            self.shapes["input"],
            layers[::-1],
            names[0],
            self.parameters,
            names[1:],
            self.notes,
        )

    def output(self, view: View) -> View:
        """A result in our own order, unless only axes are in another one, which is then noted."""
        if self._axes_of_ours(view) is not None and len(view.shape) in (1, 3):
            return view
        shape = view.shape
        if len(shape) > 3:
            shape = (math.prod(shape[:-2]), *shape[-2:])
        elif len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        return self.stored(self.reshaped(view, shape or (1,)))

    # ----------------------------------------------------------------------------------- views

    def reshaped(self, view: View, shape: Shape) -> View:
        """The same elements, in their order, with other axes.

        Raises:
            Refused: another number of elements.
        """
        if math.prod(shape) != math.prod(view.shape):
            raise Refused(f"{view.shape} reshaped to {shape}: expected as many values")
        if len(shape) == 1 and len(view.shape) > 1 and view.in_order and len(self.shapes[view.name]) == 3:
            return self.stored(View(view.name, view.factors, (view.order,)), self.label)
        cut = self._recut(view, shape)
        if cut is None:  # a factor would have to be cut where it has no seam: go through a vector
            cut = self._recut(self.stored(self._recut_flat(view)), shape)
            assert cut is not None
        return cut

    def _recut_flat(self, view: View) -> View:
        return View(view.name, view.factors, (view.order,))

    def _recut(self, view: View, shape: Shape) -> View | None:
        left = list(view.order)
        pieces: list[list[int]] = [[f] for f in view.factors]  # sizes that each factor is cut into
        cut: list[list[tuple[int, int]]] = []  # for each axis: (factor, number of its piece)
        rest = [view.factors[f] for f in left]
        done = dict.fromkeys(left, 0)
        for size in shape:
            own, need = [], size
            while need > 1:
                factor, have = left[0], rest[0]
                if need % have == 0:
                    own.append((factor, done[factor]))
                    need //= have
                    left.pop(0)
                    rest.pop(0)
                elif have % need == 0:
                    own.append((factor, done[factor]))
                    pieces[factor][-1:] = [need, have // need]
                    done[factor] += 1
                    rest[0] = have // need
                    need = 1
                else:
                    return None
            cut.append(own)
        starts = np.cumsum([0, *(len(p) for p in pieces)]).tolist()
        axes = tuple(tuple(starts[factor] + piece for factor, piece in own) for own in cut)
        return View(view.name, tuple(size for p in pieces for size in p), axes)

    def _axes_of_ours(self, view: View) -> list[int | None] | None:
        """For each axis of theirs the axis of ours that it is, None for size 1; None if it is none."""
        shape = self.shapes[view.name]
        ends: list[int | None] = []
        product, axis = 1, 0
        owner = []  # axis of ours of each factor
        for factor in view.factors:
            while product == 1 and shape[axis] == 1:
                axis += 1
            owner.append(axis)
            product *= factor
            if product == shape[axis]:
                product, axis = 1, axis + 1
        for own in view.axes:
            if not own:
                ends.append(None)
                continue
            axis = owner[own[0]]
            if list(own) != [f for f, o in enumerate(owner) if o == axis]:
                return None
            ends.append(axis)
        return ends

    def stored(self, view: View, label: str | None = None) -> View:
        """The view as a tensor of ours with its very axes: one, or three; two become three.

        Args:
            view: what is looked at.
            label: of the layer that moves elements, if one has to; if not given, beside the node at hand.

        Raises:
            Refused: another number of axes.
        """
        shape = view.shape
        if len(shape) == 2:
            shape = (shape[0], 1, shape[1])
        if len(shape) not in (1, 3):
            raise Refused(f"a tensor of {len(shape) + 1} axes")
        if view.in_order and self.shapes[view.name] == shape:
            return View(view.name, view.factors, view.axes)
        key = (view, shape)
        if key in self._moved:  # moved once already, as for each part of a split
            name = self._moved[key]
        elif view.in_order and len(shape) == 1:
            name = self.layer("flatten", [view.name], label=label or f"{self.label}/flatten")
        else:
            split = view.factors or (1,)
            order = view.order or (0,)
            attributes = {"split": split, "order": order, "shape": shape}
            name = self.layer("rearrange", [view.name], attributes, label=label or f"{self.label}/rearrange")
        self._moved[key] = name
        made = whole(name, shape)
        axes = (made.axes[0], made.axes[2]) if len(view.shape) == 2 else made.axes
        return View(name, made.factors, axes)

    def image(self, view: View, axes: int | None = None) -> View:
        """A view of (channels, places) or (channels, rows, columns) as a tensor of ours with three axes.

        Raises:
            Refused: another number of axes.
        """
        if len(view.shape) not in (2, 3) or (axes is not None and len(view.shape) != axes + 1):
            raise Refused(f"a tensor of {len(view.shape) + 1} axes: expected images")
        return self.stored(view)

    def vector(self, view: View) -> View:
        """A view of one axis as a tensor of ours with one."""
        if len(view.shape) != 1:
            raise Refused(f"a tensor of {len(view.shape) + 1} axes: expected a vector of features")
        return self.stored(view)

    def like(self, view: View, name: str) -> View:
        """A result of the shape of what it was made of, seen as that is."""
        return View(name, view.factors, view.axes)

    def _seen(self, name: str, rank: int) -> View:
        """A tensor of ours as their image of ``rank`` axes."""
        made = whole(name, self.shapes[name])
        return View(name, made.factors, (made.axes[0], made.axes[2])) if rank == 2 else made

    def with_first(self, view: View, axis: int) -> tuple[View, View]:
        """A view with that axis as our channel: as it is, and as a tensor of ours (channel first)."""
        found = self._axes_of_ours(view)
        if found is not None and found[axis] == 0:
            return view, view
        others = [i for i in range(len(view.shape)) if i != axis]
        order = [axis, *others]
        moved = view.permuted(order)
        shape = moved.shape
        if len(shape) > 3:
            shape = (shape[0], math.prod(shape[1:-1]), shape[-1])
        flat = self.stored(self.reshaped(moved, shape))
        again = self.reshaped(flat, moved.shape)
        return again.permuted(np.argsort(order).tolist()), flat

    # ------------------------------------------------------------------------------ computing

    def unary(self, view: View, op: str, attributes: Mapping[str, Any] | None = None) -> View:
        """A layer that looks at each element alone."""
        return self.like(view, self.layer(op, [view.name], attributes))

    def function(self, view: View, name: str, *numbers: float) -> View:
        """A row of ``radixpoint.arithmetic.functions.FUNCTIONS``."""
        assert len(numbers) == len(FUNCTIONS[name].numbers)
        return self.unary(view, "function", {"function": name, "numbers": tuple(map(float, numbers))})

    def by_channel(
        self,
        view: View,
        op: str,
        arrays: Mapping[str, Array],
        attributes: Mapping[str, Any] | None = None,
        axis: int | None = 0,
    ) -> View:
        """A layer with parameters of one value a channel; ``axis`` is theirs, None if all are alike."""
        seen = view if axis is None else self.with_first(view, axis)[0]
        channels = self.shapes[seen.name][0]
        full = {role: np.broadcast_to(np.reshape(v, -1), (channels,)) for role, v in arrays.items()}
        return self.like(seen, self.layer(op, [seen.name], attributes, full))

    def affine(self, view: View, scale: Array | None = None, offset: Array | None = None) -> View:
        """view * scale + offset, constants that broadcast to it (batch included in their axes).

        Raises:
            Refused: constants that differ along more than one axis.
        """
        axis: int | None = None
        arrays = {}
        for role, given in (("scale", scale), ("offset", offset)):
            if given is None:
                continue
            value = np.asarray(given, np.float64)
            neutral = 1.0 if role == "scale" else 0.0
            if value.ndim > len(view.shape) + 1:
                raise Refused(f"a constant of shape {value.shape} with a tensor of {view.shape}")
            if np.all(value == neutral) and value.size in (1, *view.shape):
                continue
            own = (1,) * (len(view.shape) + 1 - value.ndim) + value.shape
            if own[0] != 1:
                raise Refused(f"a constant of shape {value.shape}: differs between images")
            differs = [i for i, size in enumerate(own[1:]) if size != 1]
            if any(own[1:][i] != view.shape[i] for i in differs):
                raise Refused(f"a constant of shape {value.shape} with a tensor of {view.shape}")
            if len(differs) > 1:
                raise Refused(f"a constant of shape {value.shape}: differs from place to place")
            if not np.isfinite(value).all():
                raise Refused("a constant that is not finite")
            axis = differs[0] if differs else axis
            arrays[role] = value.reshape(-1)
        return self.by_channel(view, "affine", arrays, axis=axis) if arrays else view

    def binary(self, op: str, a: View, b: View) -> View:
        """A layer of two tensors, with broadcasting: add, subtract, multiply, maximum, minimum."""
        if len(a.shape) != len(b.shape):
            raise Refused(f"tensors of {a.shape} and {b.shape}")
        if any(x != y and 1 not in (x, y) for x, y in zip(a.shape, b.shape, strict=True)):
            raise Refused(f"tensors of {a.shape} and {b.shape}")
        if a.name == b.name and a != b:
            b = self.stored(b)
        if (a.factors, a.axes) == (b.factors, b.axes) and self.shapes[a.name] == self.shapes[b.name]:
            return self.like(a, self.layer(op, [a.name, b.name]))
        large = a if math.prod(a.shape) >= math.prod(b.shape) else b
        found = self._axes_of_ours(large)
        order = list(range(len(large.shape)))
        if found is not None and len(self.shapes[large.name]) == len(order) == 3:
            missing = iter(sorted(set(range(3)) - {o for o in found if o is not None}))
            filled = [next(missing) if o is None else o for o in found]
            order = np.argsort(filled).tolist()
        elif len(order) > 3:
            merged = (math.prod(large.shape[:-2]), *large.shape[-2:])
            if a.shape != b.shape:
                raise Refused(f"tensors of {a.shape} and {b.shape}")
            result = self.binary(op, self.reshaped(a, merged), self.reshaped(b, merged))
            return self.reshaped(result, large.shape)
        x, y = (self.stored(v.permuted(order)) for v in (a, b))
        back = np.argsort(order).tolist()
        if op != "multiply":
            shape = tuple(max(sizes) for sizes in zip(x.shape, y.shape, strict=True))
            x, y = self.expanded(x, shape), self.expanded(y, shape)
        return self._seen(self.layer(op, [x.name, y.name]), len(order)).permuted(back)

    def multiply(self, a: View, b: View) -> View:
        """a * b; x * sigmoid(x) is one function, silu, and so is hard_swish."""
        made = {layer.name: layer for layer in self.layers}
        for x, gate in ((a, b), (b, a)):
            layer = made.get(gate.name)
            if layer is None or layer.op != "function" or layer.inputs != (x.name,):
                continue
            if (x.factors, x.axes) != (gate.factors, gate.axes):
                continue
            name, numbers = layer.attributes["function"], layer.attributes["numbers"]
            if name == "sigmoid":
                return self.function(x, "silu")
            if name == "hard_sigmoid" and [np.float32(n) for n in numbers] == [np.float32(1 / 6), 0.5]:
                return self.function(x, "hard_swish")
        return self.binary("multiply", a, b)

    def conv(
        self, view: View, weight: Array, bias: Array | None, attributes: Mapping[str, Any], axes: int = 2
    ) -> View:
        """A convolution of (outputs, inputs of a group, *kernel); attributes as the layer has them."""
        arrays = {"weight": weight}
        if bias is not None and np.any(bias != 0):  # exporters write zeros where there is none
            arrays["bias"] = bias
        image = self.image(view, axes)
        return self._seen(self.layer("conv", [image.name], attributes, arrays), axes + 1)

    def transposed_conv(
        self,
        view: View,
        weight: Array,
        bias: Array | None,
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        dilations: tuple[int, int],
        groups: int,
        more: tuple[int, int],
        axes: int = 2,
    ) -> View:
        """A convolution of the image with zeros between its places, with the kernel turned round.

        Args:
            view: (inputs, height, width).
            weight: (inputs, outputs of a group, height, width).
            bias: of the outputs, or None.
            strides, pads, dilations, groups: of the transposed convolution.
            more: rows and columns that its result has beyond what they make.
            axes: of an image.
        """
        image = self.image(view, axes)
        inputs, per_group = weight.shape[:2]
        split = weight.reshape(groups, inputs // groups, per_group, *weight.shape[2:])
        turned = split.transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
        turned = turned.reshape(groups * per_group, inputs // groups, *weight.shape[2:])
        places = []
        for i, size in enumerate(self.shapes[image.name][1:]):
            reach = dilations[i] * (weight.shape[2 + i] - 1)
            spread = [-1] * ((size - 1) * strides[i] + 1)
            spread[:: strides[i]] = range(size)
            before, after = reach - pads[i], reach - pads[i + 2] + more[i]
            spread = [-1] * before + spread if before >= 0 else spread[-before:]
            spread = spread + [-1] * after if after >= 0 else spread[:after]
            if not spread:
                raise Refused("a result without places")
            places.append(tuple(spread))
        apart = self.select(image, rows=places[0], columns=places[1])
        attributes = {**WINDOW, "dilations": dilations, "groups": groups}
        return self.conv(self._seen(apart.name, axes + 1), turned, bias, attributes, axes)

    def linear(self, view: View, weight: Array, bias: Array | None = None) -> View:
        """Features times a matrix (outputs, features); of every place, where there are places."""
        if len(view.shape) == 1:
            arrays = {"weight": weight} | ({} if bias is None else {"bias": bias})
            return whole(name := self.layer("fc", [self.vector(view).name], {}, arrays), self.shapes[name])
        last = len(view.shape) - 1
        moved = view.permuted([last, *range(last)])
        places = moved.shape[1:]
        shape = (moved.shape[0], math.prod(places[:-1]), places[-1])
        first = self.stored(self.reshaped(moved, shape))
        attributes = {**WINDOW, "dilations": (1, 1), "groups": 1}
        made = self.conv(first, weight[:, :, None, None], bias, attributes)
        seen = self.reshaped(made, (weight.shape[0], *view.shape[:-1]))
        return seen.permuted([*range(1, len(view.shape)), 0])

    def pool(self, view: View, kind: str, attributes: Mapping[str, Any], axes: int = 2) -> View:
        """``max`` or ``average``; attributes as the layer has them."""
        image = self.image(view, axes)
        return self._seen(self.layer(f"{kind}_pool", [image.name], attributes), axes + 1)

    def windowed(
        self,
        view: View,
        kind: str,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int],
        ceil: bool = False,
        counted: bool = False,
        axes: int = 2,
        inside: bool = True,
    ) -> View:
        """A pooling as frameworks have it.

        Args:
            view: an image.
            kind: ``max`` or ``average``.
            kernel, strides, pads: of its windows.
            ceil: whether a last window that is not whole counts.
            counted: whether an average divides by padding too.
            axes: of an image.
            inside: whether a last window has to begin before the padding behind the image.
        """
        image = self.image(view, axes)
        if ceil:
            more = []
            for i, size in enumerate(self.shapes[image.name][1:]):
                span = size + pads[i] + pads[i + 2] - kernel[i]
                count = -(-span // strides[i]) + 1
                if inside and (count - 1) * strides[i] >= size + pads[i]:
                    count -= 1
                more.append(max((count - 1) * strides[i] - span, 0))
            if kind == "average" and counted and any(pads):  # what lies beyond the padding does not count
                image = self._seen(self.padded(image, pads).name, axes + 1)
                pads = (0, 0, 0, 0)
            counted = False
            pads = (pads[0], pads[1], pads[2] + more[0], pads[3] + more[1])
        # what lies in no window is not read; and a window may be larger than the image
        attributes: dict[str, Any] = {"kernel": kernel, "strides": strides, "pads": pads}
        if kind == "average":
            attributes["count_include_pad"] = counted
        return self.pool(image, kind, attributes, axes)

    def reduced(self, view: View, kind: str, axes: Sequence[int], keep: bool) -> View:
        """``average`` or ``max`` over some axes of theirs."""
        rank = len(view.shape)
        axes = sorted(a % rank for a in axes)
        kept = [i for i in range(rank) if i not in axes]
        found = self._axes_of_ours(view)
        three = len(self.shapes[view.name]) == 3
        if three and found is not None and all(found[a] in (1, 2, None) for a in axes):
            shape = self.shapes[view.name]
            over = {found[a] for a in axes}
            kernel = tuple(shape[o] if o in over else 1 for o in (1, 2))
            attributes: dict[str, Any] = {"kernel": kernel, "strides": (1, 1), "pads": (0,) * 4}
            source, rest = view.name, None
        else:
            order = [*kept, *axes]
            moved = view.permuted(order)
            number = math.prod(view.shape[a] for a in axes)
            others = math.prod(view.shape[i] for i in kept)
            source = self.stored(self.reshaped(moved, (others, number, 1))).name
            attributes = {"kernel": (number, 1), "strides": (1, 1), "pads": (0,) * 4}
            rest = tuple(view.shape[i] for i in kept)
        if kind == "average":
            attributes["count_include_pad"] = False
        name = self.layer(f"{kind}_pool", [source], attributes)
        made = whole(name, self.shapes[name])
        if rest is None:
            found_axes = [() if i in axes or o is None else made.axes[o] for i, o in enumerate(found or [])]
            result = View(name, made.factors, tuple(found_axes))
        else:
            flat = self.reshaped(made, rest or (1,))
            full = list(flat.axes) if rest else []
            result = View(name, flat.factors, tuple(() if i in axes else full.pop(0) for i in range(rank)))
        return result if keep else View(name, result.factors, tuple(result.axes[i] for i in kept))

    # -------------------------------------------------------------------------------- moving

    def select(
        self,
        view: View,
        channels: Sequence[int] = (),
        rows: Sequence[int] = (),
        columns: Sequence[int] = (),
        fill: float = 0.0,
    ) -> View:
        """Of a tensor of ours, by our axes: those indices, -1 for ``fill``, none for all as they are."""
        attributes = {"channels": tuple(channels), "rows": tuple(rows), "columns": tuple(columns),
                      "fill": float(fill)}  # fmt: skip
        name = self.layer("select", [view.name], attributes)
        return whole(name, self.shapes[name])

    def along(self, view: View, axis: int, indices: Sequence[int], fill: float = 0.0) -> View:
        """Those indices along one axis of theirs."""
        indices = tuple(int(i) for i in indices)
        if indices == tuple(range(view.shape[axis])):
            return view
        found = self._axes_of_ours(view)
        own = None if found is None else found[axis]
        if own is None and found is not None:  # size 1: whichever axis of ours is left
            left = set(range(len(self.shapes[view.name]))) - {o for o in found if o is not None}
            own = min((o for o in left if self.shapes[view.name][o] == 1), default=None)
        if own is None and view.shape[axis] == 1 and len(view.shape) > 1:
            return self._beside(view, axis, indices, fill)
        if own is None:
            view, _ = self.with_first(view, axis)
            found, own = self._axes_of_ours(view), 0
            if found is None:
                raise Refused(f"part of axis {axis + 1} of a tensor of {view.shape}")
        names = ("channels", "rows", "columns")
        made = self.select(view, fill=fill, **{names[own]: indices})
        assert found is not None
        axes = [made.axes[own] if i == axis else () if o is None else made.axes[o]
                for i, o in enumerate(found)]  # fmt: skip
        return View(made.name, made.factors, tuple(axes))

    def _beside(self, view: View, axis: int, indices: Sequence[int], fill: float) -> View:
        """``along`` an axis of size 1, as places of the axis beside it: upsampling by Unsqueeze and Tile."""
        shape = list(view.shape)
        other = axis - 1 if axis else 1
        pairs = [(p, i) for p in range(shape[other]) for i in indices]
        if not axis:
            pairs = [(p, i) for i in indices for p in range(shape[other])]
        merged = self.reshaped(
            view, (*shape[: min(axis, other)], shape[other], *shape[max(axis, other) + 1 :])
        )
        made = self.along(merged, min(axis, other), [p if i == 0 else i for p, i in pairs], fill)
        shape[axis] = len(indices)
        return self.reshaped(made, tuple(shape))

    def expanded(self, view: View, shape: Shape) -> View:
        """Axes of size 1 repeated."""
        if view.shape == shape:
            return view
        for axis, (own, size) in enumerate(zip(view.shape, shape, strict=True)):
            if own != size:
                if own != 1:
                    raise Refused(f"{view.shape} expanded to {shape}")
                view = self.along(view, axis, [0] * size)
        return view

    def padded(self, view: View, pads: tuple[int, int, int, int], fill: float = 0.0) -> View:
        """An image of ours with rows and columns of ``fill`` around it; negative pads crop."""
        _, height, width = self.shapes[view.name]
        top, left, bottom, right = pads
        return self.select(
            view,
            rows=() if not (top or bottom) else padded_indices(height, top, bottom, "constant"),
            columns=() if not (left or right) else padded_indices(width, left, right, "constant"),
            fill=fill,
        )

    def concat(self, views: Sequence[View], axis: int) -> View:
        """Joined along one axis of theirs."""
        if len(views) == 1:
            return views[0]
        ranks = {len(v.shape) for v in views}
        if len(ranks) != 1:
            raise Refused("tensors of different numbers of axes")
        rank = ranks.pop()
        axis %= rank
        found = [self._axes_of_ours(v) for v in views]
        alike = found[0] is not None and all(f == found[0] for f in found) and found[0][axis] == 0
        alike = alike and all(len(self.shapes[v.name]) == len(self.shapes[views[0].name]) for v in views)
        if alike and len({tuple(self.shapes[v.name][1:]) for v in views}) == 1:
            name = self.layer("concat", [v.name for v in views], {"count": len(views)})
            made = whole(name, self.shapes[name])
            axes = tuple(() if o is None else made.axes[o] for o in (found[0] or []))
            return View(name, made.factors, axes)
        order = [axis, *(i for i in range(rank) if i != axis)]
        moved = [v.permuted(order) for v in views]
        rest = moved[0].shape[1:]
        if any(m.shape[1:] != rest for m in moved):
            raise Refused(f"tensors of {', '.join(str(v.shape) for v in views)} along axis {axis + 1}")
        flat = tuple(rest) if len(rest) in (0, 2) else (math.prod(rest[:-1]), rest[-1])
        parts = [self.stored(self.reshaped(m, (m.shape[0], *flat))) for m in moved]
        name = self.layer("concat", [p.name for p in parts], {"count": len(parts)})
        joined = self.reshaped(whole(name, self.shapes[name]), (self.shapes[name][0], *rest))
        return joined.permuted(np.argsort(order).tolist())

    def interpolated(
        self, view: View, rows: Sequence[tuple[int, int, float]], columns: Sequence[tuple[int, int, float]]
    ) -> View:
        """Each row (and column) between two of the image: (one, other, share of the other).

        Raises:
            Refused: shares that are no multiples of 2**-10.
        """
        image = self.image(view)
        shares = [s for _, _, s in (*rows, *columns)]
        places = next((p for p in range(11) if all(math.ldexp(s, p) % 1 == 0 for s in shares)), None)
        if places is None:
            raise Refused("interpolation whose weights are no multiples of 1/1024")
        attributes = {
            "rows": tuple((a, b, int(math.ldexp(s, places))) for a, b, s in rows),
            "columns": tuple((a, b, int(math.ldexp(s, places))) for a, b, s in columns),
            "places": places,
        }
        return self._seen(self.layer("interpolate", [image.name], attributes), len(view.shape))

    def lrn(self, view: View, size: int, alpha: float, beta: float, bias: float) -> View:
        """Local response normalization across channels (Krizhevsky et al. 2012, section 3.3).

        x * (bias + alpha / size * sum of squares of ``size`` channels) ** -beta, as three layers: the sum, a
        table, a product.
        """
        image = self.image(view)
        label = self.label
        self.label = f"{label}/square_sum"
        total = whole(name := self.layer("square_sum", [image.name], {"size": size}), self.shapes[name])
        self.label = f"{label}/power"
        factor = self.function(total, "power", alpha / size, bias, -beta)
        self.label = label
        return self._seen(self.layer("multiply", [image.name, factor.name]), len(view.shape))


def padded_indices(size: int, before: int, after: int, mode: str) -> tuple[int, ...]:
    """Indices of an axis with padding (negative: cropped): -1 for ``constant``, else ``edge``, ``reflect``,
    ``wrap``.

    Raises:
        Refused: an unknown mode, nothing left, or more reflected than there is.
    """
    places = range(-before, size + after)
    if len(places) < 1:
        raise Refused(f"pads {before} and {after} of {size} places leave none")
    if mode == "constant":
        return tuple(i if 0 <= i < size else -1 for i in places)
    if mode == "edge":
        return tuple(min(max(i, 0), size - 1) for i in places)
    if mode == "wrap":
        return tuple(i % size for i in places)
    if mode != "reflect":
        raise Refused(f"padding mode {mode!r}: expected constant, edge, reflect or wrap")
    if max(before, after) >= size:
        raise Refused(f"{max(before, after)} places reflected of {size}")
    return tuple(-i if i < 0 else 2 * (size - 1) - i if i >= size else i for i in places)
