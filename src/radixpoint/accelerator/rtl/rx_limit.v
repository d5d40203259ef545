// Overflow handling: saturate to low..high, or wrap into the format whose ends they are. high is 2^k - 1; low is
// 0, -high (SAT_SYM) or -high - 1. Needs IN >= OUT.
module rx_limit #(
    parameter IN  = 8,
    parameter OUT = 4
) (
    input signed [IN-1:0] x,
    input signed [OUT-1:0] low,
    input signed [OUT-1:0] high,
    input wrap,
    output signed [OUT-1:0] y
);
  // The bits that wrapping keeps: those of high and, in a signed format, the sign above them.
  wire [OUT-1:0] mask = low[OUT-1] ? {high[OUT-2:0], 1'b1} : high;
  wire [OUT-1:0] kept = x[OUT-1:0] & mask;
  wire [OUT-1:0] wrapped = |(kept & ~high) ? kept | ~mask : kept;

  wire signed [IN-1:0] bottom = {{(IN - OUT + 1) {low[OUT-1]}}, low[OUT-2:0]};
  wire signed [IN-1:0] top = {{(IN - OUT + 1) {high[OUT-1]}}, high[OUT-2:0]};
  wire [OUT-1:0] saturated = x < bottom ? low : x > top ? high : x[OUT-1:0];

  assign y = wrap ? wrapped : saturated;
endmodule
