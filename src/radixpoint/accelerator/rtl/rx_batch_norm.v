// Batch normalization of one channel: (x + centre) * factor + offset, exact, three clocks. Each part can be left out;
// affine uses factor and offset, Caffe's two stages are two passes: centre and factor, then factor and offset.
module rx_batch_norm #(
    parameter PATH = 26,    // bits of every exact result
    parameter MUL = 13,     // bits of the multiplicand
    parameter FACTOR = 13,
    parameter OFFSET = 13,
    parameter SHIFT = 6
) (
    input clock,
    input use_centre,
    input use_factor,
    input use_offset,
    input signed [PATH-1:0] x,
    input signed [OFFSET-1:0] centre,
    input signed [SHIFT-1:0] centre_align,
    input signed [FACTOR-1:0] factor,
    input signed [OFFSET-1:0] offset,
    input signed [SHIFT-1:0] offset_align,
    output reg signed [PATH-1:0] centred,
    output reg signed [PATH-1:0] scaled,
    output reg signed [PATH-1:0] y
);
  localparam PRODUCT = MUL + FACTOR;
  localparam WIDE = PRODUCT > PATH ? PRODUCT : PATH;
  wire signed [PATH-1:0] plus_centre, plus_offset;
  wire signed [MUL-1:0] multiplicand = centred[MUL-1:0];
  wire signed [PRODUCT-1:0] product = multiplicand * factor;
  // the product is proven to fit PATH
  // verilator lint_off UNUSEDSIGNAL
  wire signed [WIDE-1:0] wide = {{(WIDE - PRODUCT + 1) {product[PRODUCT-1]}}, product[PRODUCT-2:0]};
  // verilator lint_on UNUSEDSIGNAL

  rx_offset #(
      .PATH (PATH),
      .VALUE(OFFSET),
      .SHIFT(SHIFT)
  ) add_centre (
      .x(x),
      .value(centre),
      .align(centre_align),
      .y(plus_centre)
  );
  rx_offset #(
      .PATH (PATH),
      .VALUE(OFFSET),
      .SHIFT(SHIFT)
  ) add_offset (
      .x(scaled),
      .value(offset),
      .align(offset_align),
      .y(plus_offset)
  );

  always @(posedge clock) begin
    centred <= use_centre ? plus_centre : x;
    scaled <= use_factor ? wide[PATH-1:0] : centred;
    y <= use_offset ? plus_offset : scaled;
  end
endmodule
