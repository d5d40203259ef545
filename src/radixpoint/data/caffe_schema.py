"""Caffe's files, as far as they are read here: a small protobuf schema, and how to parse with it.

A line of the table is a field: name, number, type, and a default where Caffe has one; ``*`` marks a repeated
one. Numbers are those of Caffe's ``caffe.proto``, which makes files of any age readable; fields that are not
here are skipped.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

_MESSAGES = {
    "Shape": "dim 1 int64*",
    "Blob": """num 1 int64; channels 2 int64; height 3 int64; width 4 int64; data 5 float*; shape 7 Shape;
        double_data 8 double*""",
    "Rule": "phase 1 Phase",
    "Transform": """scale 1 float 1; mirror 2 bool; crop_size 3 uint64; mean_file 4 string;
        mean_value 5 float*; force_color 6 bool; force_gray 7 bool""",
    "ArgMax": "axis 3 int64",
    "BatchNorm": "use_global_stats 1 bool; eps 3 float 1e-5",
    "Bias": "axis 1 int64 1; num_axes 2 int64 1",
    "Concat": "concat_dim 1 uint64 1; axis 2 int64 1",
    "Convolution": """num_output 1 uint64; bias_term 2 bool true; pad 3 uint64*; kernel_size 4 uint64*;
        group 5 uint64 1; stride 6 uint64*; pad_h 9 uint64; pad_w 10 uint64; kernel_h 11 uint64;
        kernel_w 12 uint64; stride_h 13 uint64; stride_w 14 uint64; axis 16 int64 1; dilation 18 uint64*""",
    "Crop": "axis 1 int64 2; offset 2 uint64*",
    "Data": "batch_size 4 uint64; scale 2 float 1; mean_file 3 string; crop_size 5 uint64",
    "Eltwise": "operation 1 EltwiseOp SUM; coeff 2 float*",
    "Elu": "alpha 1 float 1",
    "Exp": "base 1 float -1; scale 2 float 1; shift 3 float",
    "Flatten": "axis 1 int64 1; end_axis 2 int64 -1",
    "InnerProduct": "num_output 1 uint64; bias_term 2 bool true; axis 5 int64 1; transpose 6 bool",
    "Input": "shape 1 Shape*",
    "Log": "base 1 float -1; scale 2 float 1; shift 3 float",
    "Lrn": "local_size 1 uint64 5; alpha 2 float 1; beta 3 float 0.75; norm_region 4 NormRegion; k 5 float 1",
    "Permute": "order 1 uint64*",
    "Pooling": """pool 1 PoolMethod; kernel_size 2 uint64*; stride 3 uint64*; pad 4 uint64*;
        kernel_h 5 uint64; kernel_w 6 uint64; stride_h 7 uint64; stride_w 8 uint64; pad_h 9 uint64;
        pad_w 10 uint64;
        global_pooling 12 bool; dilation 13 uint64*""",
    "Power": "power 1 float 1; scale 2 float 1; shift 3 float",
    "PRelu": "channel_shared 2 bool",
    "Relu": "negative_slope 1 float",
    "Reshape": "shape 1 Shape; axis 2 int64; num_axes 3 int64 -1",
    "Scale": "axis 1 int64 1; num_axes 2 int64 1; bias_term 4 bool",
    "Slice": "slice_dim 1 uint64 1; slice_point 2 uint64*; axis 3 int64 1",
    "Softmax": "axis 2 int64 1",
    "Tile": "axis 1 int64 1; tiles 2 int64",
    "Layer": """name 1 string; type 2 string; bottom 3 string*; top 4 string*; blobs 7 Blob*; include 8 Rule*;
        exclude 9 Rule*; transform_param 100 Transform; argmax_param 103 ArgMax; concat_param 104 Concat;
        convolution_param 106 Convolution; data_param 107 Data; eltwise_param 110 Eltwise; exp_param 111 Exp;
        inner_product_param 117 InnerProduct; lrn_param 118 Lrn; pooling_param 121 Pooling;
        power_param 122 Power; relu_param 123 Relu; softmax_param 125 Softmax; slice_param 126 Slice;
        prelu_param 131 PRelu; reshape_param 133 Reshape; log_param 134 Log; flatten_param 135 Flatten;
        tile_param 138 Tile; batch_norm_param 139 BatchNorm; elu_param 140 Elu; bias_param 141 Bias;
        scale_param 142 Scale; input_param 143 Input; crop_param 144 Crop; permute_param 202 Permute""",
    "OldLayer": """bottom 2 string*; top 3 string*; name 4 string; type 5 OldType; blobs 6 Blob*;
        include 32 Rule*; exclude 33 Rule*; transform_param 36 Transform; concat_param 9 Concat;
        convolution_param 10 Convolution; data_param 11 Data; inner_product_param 17 InnerProduct;
        lrn_param 18 Lrn; pooling_param 19 Pooling; power_param 21 Power; argmax_param 23 ArgMax;
        eltwise_param 24 Eltwise; relu_param 30 Relu; slice_param 31 Slice; softmax_param 39 Softmax;
        exp_param 41 Exp""",
    "Net": """name 1 string; layers 2 OldLayer*; input 3 string*; input_dim 4 int64*; input_shape 8 Shape*;
        layer 100 Layer*""",
}
_ENUMS = {
    "Phase": "TRAIN 0; TEST 1",
    "EltwiseOp": "PROD 0; SUM 1; MAX 2",
    "NormRegion": "ACROSS_CHANNELS 0; WITHIN_CHANNEL 1",
    "PoolMethod": "MAX 0; AVE 1; STOCHASTIC 2",
    "OldType": """NONE 0; ACCURACY 1; BNLL 2; CONCAT 3; CONVOLUTION 4; DATA 5; DROPOUT 6; EUCLIDEAN_LOSS 7;
        FLATTEN 8; HDF5_DATA 9; HDF5_OUTPUT 10; IM2COL 11; IMAGE_DATA 12; INFOGAIN_LOSS 13; INNER_PRODUCT 14;
        LRN 15; MULTINOMIAL_LOGISTIC_LOSS 16; POOLING 17; RELU 18; SIGMOID 19; SOFTMAX 20; SOFTMAX_LOSS 21;
        SPLIT 22; TANH 23; WINDOW_DATA 24; ELTWISE 25; POWER 26; SIGMOID_CROSS_ENTROPY_LOSS 27; HINGE_LOSS 28;
        MEMORY_DATA 29; ARGMAX 30; THRESHOLD 31; DUMMY_DATA 32; SLICE 33; MVN 34; ABSVAL 35; SILENCE 36;
        CONTRASTIVE_LOSS 37; EXP 38; DECONVOLUTION 39""",
}
OLD_TYPES = {
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "IMAGE_DATA": "ImageData",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
}
"""Names of layer types in files before 2014, and today."""
TEST = 1
"""Number of the phase in which networks are used."""
DATA_LAYERS = ("Data", "ImageData", "MemoryData", "HDF5Data", "DummyData", "AnnotatedData")
_PACKAGE = "radixpoint_caffe"
_FIELD = descriptor_pb2.FieldDescriptorProto


def _entries(text: str) -> list[list[str]]:
    return [entry.split() for entry in text.split(";")]


@cache
def _messages() -> dict[str, Any]:
    """Classes of the messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2")
    for name, text in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in _entries(text):
            # values live beside their enumeration: two may not have one name
            enum.value.add(name=value, number=int(number))
    taken: set[str] = set()
    for enum in file.enum_type:
        own = {value.name for value in enum.value}
        if taken & own:  # so such an enumeration lives in a message of its own
            holder = file.message_type.add(name=f"{enum.name}Holder")
            holder.enum_type.add().CopyFrom(enum)
        taken |= own
    nested = {holder.enum_type[0].name for holder in file.message_type}
    kept = [enum for enum in file.enum_type if enum.name not in nested]
    del file.enum_type[:]
    file.enum_type.extend(kept)
    for name, text in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, *default in _entries(text):
            plain = kind.rstrip("*")
            label = _FIELD.LABEL_REPEATED if kind.endswith("*") else _FIELD.LABEL_OPTIONAL
            made = message.field.add(name=field, number=int(number), label=label)
            if plain in _ENUMS:
                made.type = _FIELD.TYPE_ENUM
                holder = f"{plain}Holder." if plain in nested else ""
                made.type_name = f".{_PACKAGE}.{holder}{plain}"
            elif plain in _MESSAGES:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            else:
                made.type = getattr(_FIELD, f"TYPE_{plain.upper()}")
            if default:
                made.default_value = default[0]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def parse_text(message: str, text: str) -> Any:
    """A message from Caffe's text form (``.prototxt``); unknown fields are skipped.

    Raises:
        ValueError: it is not well formed.
    """
    made = _messages()[message]()
    try:
        return text_format.Parse(text, made, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None


def parse_binary(message: str, data: bytes) -> Any:
    """A message from Caffe's binary form (``.caffemodel``, ``.binaryproto``).

    Raises:
        ValueError: it is not well formed.
    """
    made = _messages()[message]()
    try:
        made.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return made


def active(net: Any) -> list[Any]:
    """Layers of phase TEST, old and new, in order."""

    def counts(layer: Any) -> bool:
        if any(rule.HasField("phase") and rule.phase == TEST for rule in layer.exclude):
            return False
        phases = [rule.phase for rule in layer.include if rule.HasField("phase")]
        return not phases or TEST in phases

    return [layer for layer in (*net.layers, *net.layer) if counts(layer)]


def kind_of(layer: Any) -> str:
    """Its type by today's name."""
    if isinstance(layer.type, str):
        return layer.type
    name = layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[layer.type].name
    return OLD_TYPES.get(name, str(name))


def declared_images(net: Any) -> list[tuple[str, tuple[int, ...] | None]]:
    """Names of what the network reads, with their shapes, batch first, where they are said."""
    found: list[tuple[str, tuple[int, ...] | None]] = []
    for i, name in enumerate(net.input):
        dims = tuple(net.input_shape[i].dim) if i < len(net.input_shape) else ()
        found.append((name, dims or tuple(net.input_dim[4 * i : 4 * i + 4]) or None))
    for layer in active(net):
        if kind_of(layer) == "Input":
            shapes = layer.input_param.shape
            for i, top in enumerate(layer.top):
                found.append((top, tuple(shapes[min(i, len(shapes) - 1)].dim) if len(shapes) else None))
        elif kind_of(layer) in DATA_LAYERS and layer.top:
            side = int(layer.transform_param.crop_size or layer.data_param.crop_size)
            channels = 1 if layer.transform_param.force_gray else 3
            found.append((layer.top[0], (1, channels, side, side) if side else None))
    return found
