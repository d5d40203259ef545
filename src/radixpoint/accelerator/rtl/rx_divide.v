// x / divisor / 2^shift, rounded once, then limited: the exactly rounded division of average pooling. Restoring, one
// bit of the quotient a clock; BITS + 2 clocks from valid to y_valid, and no new x before.
module rx_divide #(
    parameter IN = 20,
    parameter OUT = 13,
    parameter DIVISOR = 8,  // bits of the divisor, which is positive
    parameter SHIFT = 6,
    parameter BITS = 32     // holds the shifted x and twice the shifted divisor, with a sign
) (
    input clock,
    input valid,
    input signed [IN-1:0] x,
    input [DIVISOR-1:0] divisor,
    input signed [SHIFT-1:0] shift,
    input [2:0] rounding,
    input signed [OUT-1:0] low,
    input signed [OUT-1:0] high,
    input wrap,
    output y_valid,
    output signed [OUT-1:0] y
);
  wire to_left = shift[SHIFT-1];
  wire [SHIFT-1:0] x_places = to_left ? -shift : {SHIFT{1'b0}};
  wire [SHIFT-1:0] divisor_places = to_left ? {SHIFT{1'b0}} : shift;
  wire signed [BITS-1:0] numerator = {{(BITS - IN + 1) {x[IN-1]}}, x[IN-2:0]} <<< x_places;

  reg negative;
  reg [BITS-1:0] by, quotient, remainder;  // quotient holds what is left of |x| above its own bits
  reg [$clog2(BITS+2)-1:0] left;
  reg done;
  wire [BITS-1:0] next = {remainder[BITS-2:0], quotient[BITS-1]};
  wire fits = next >= by;

  always @(posedge clock) begin
    done <= left == 1;
    if (valid) begin
      negative <= numerator[BITS-1];
      quotient <= numerator[BITS-1] ? -numerator : numerator;
      remainder <= {BITS{1'b0}};
      by <= {{(BITS - DIVISOR) {1'b0}}, divisor} << divisor_places;
      left <= BITS[$clog2(BITS+2)-1:0];
    end else if (left != 0) begin
      quotient <= {quotient[BITS-2:0], fits};
      remainder <= fits ? next - by : next;
      left <= left - 1'b1;
    end
  end

  // Of a negative x: floor = -(quotient + 1) and the other part of the divisor, unless nothing remains.
  wire exact = remainder == 0;
  wire signed [BITS-1:0] floor = !negative ? quotient : exact ? -quotient : ~quotient;
  wire [BITS-1:0] part = negative && !exact ? by - remainder : remainder;
  wire [BITS-1:0] twice = part << 1;
  wire signed [BITS:0] rounded;

  rx_round #(
      .BITS(BITS)
  ) round (
      .floor(floor),
      .half(twice >= by),
      .rest(!exact && twice != by),
      .drawn(1'b0),
      .rounding(rounding),
      .y(rounded)
  );
  rx_limit #(
      .IN (BITS + 1),
      .OUT(OUT)
  ) limit (
      .x(rounded),
      .low(low),
      .high(high),
      .wrap(wrap),
      .y(y)
  );
  assign y_valid = done;
endmodule
