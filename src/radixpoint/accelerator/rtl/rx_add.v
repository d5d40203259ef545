// Residual addition of one channel: both operands are shifted left to the finer of their binary points, then added.
// They come one after the other; without a second one it is a copy.
module rx_add #(
    parameter IN = 13,
    parameter OUT = 20,
    parameter SHIFT = 6
) (
    input clock,
    input valid,
    input first,
    input signed [IN-1:0] x,
    input [SHIFT-1:0] align_first,
    input [SHIFT-1:0] align_second,
    output reg signed [OUT-1:0] y
);
  wire signed [OUT-1:0] wide = {{(OUT - IN + 1) {x[IN-1]}}, x[IN-2:0]};
  wire signed [OUT-1:0] aligned = wide <<< (first ? align_first : align_second);

  always @(posedge clock) if (valid) y <= first ? aligned : y + aligned;
endmodule
