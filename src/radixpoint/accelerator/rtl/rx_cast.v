// A cast: x / 2^shift (to the left where shift is negative), rounded once, then limited. Combinational.
module rx_cast #(
    parameter IN = 24,    // bits of x, at least 2
    parameter OUT = 13,   // bits of the result and its limits, at least 2
    parameter SHIFT = 6,  // bits of shift, signed
    parameter LEFT = 0,   // most places to the left; 0 leaves that shifter out
    parameter STOCHASTIC = 0  // 1: rounding 7 compares draw with what is cut off; for shifts of up to 64
) (
    input signed [IN-1:0] x,
    input signed [SHIFT-1:0] shift,
    input [2:0] rounding,
    input signed [OUT-1:0] low,
    input signed [OUT-1:0] high,
    input wrap,
    input [63:0] draw,
    output signed [OUT-1:0] y
);
  // Room for the shift to the left, and for a result that is wider than x.
  localparam WIDE = (IN + LEFT > OUT) ? IN + LEFT : OUT;

  wire left = shift[SHIFT-1];
  wire [SHIFT-1:0] right_places = left ? {SHIFT{1'b0}} : shift;
  wire signed [WIDE-1:0] wide = {{(WIDE - IN + 1) {x[IN-1]}}, x[IN-2:0]};
  wire signed [WIDE-1:0] raised;

  generate
    if (LEFT > 0) begin : gen_left
      wire [SHIFT-1:0] left_places = left ? -shift : {SHIFT{1'b0}};
      assign raised = wide <<< left_places;
    end else begin : gen_right_only
      assign raised = wide;
    end
  endgenerate

  // One bit below the binary point holds the half after the shift; what falls below it is the rest.
  wire signed [WIDE:0] start = {raised, 1'b0};
  wire signed [WIDE:0] shifted = start >>> right_places;
  wire [WIDE:0] fallen = ~({(WIDE + 1) {1'b1}} << right_places);
  wire rest = |(start & fallen);
  wire signed [WIDE:0] rounded;
  wire drawn;

  generate
    if (STOCHASTIC != 0) begin : gen_draw
      // Only the fraction is looked at.
      // verilator lint_off UNUSEDSIGNAL
      wire signed [WIDE+63:0] whole = {raised, 64'd0};
      wire signed [WIDE+63:0] parts = whole >>> right_places;
      // verilator lint_on UNUSEDSIGNAL
      assign drawn = draw < parts[63:0];
    end else begin : gen_no_draw
      wire unused = &{1'b0, draw};
      assign drawn = 1'b0;
    end
  endgenerate

  rx_round #(
      .BITS(WIDE)
  ) round (
      .floor(shifted[WIDE:1]),
      .half(shifted[0]),
      .rest(rest),
      .drawn(drawn),
      .rounding(rounding),
      .y(rounded)
  );
  rx_limit #(
      .IN (WIDE + 1),
      .OUT(OUT)
  ) limit (
      .x(rounded),
      .low(low),
      .high(high),
      .wrap(wrap),
      .y(y)
  );
endmodule
