// x + value, exact: the one with fewer fraction bits is shifted left first. align > 0 shifts value, align < 0 shifts x.
module rx_offset #(
    parameter PATH  = 26,  // bits of x and of the sum
    parameter VALUE = 13,
    parameter SHIFT = 6
) (
    input signed [PATH-1:0] x,
    input signed [VALUE-1:0] value,
    input signed [SHIFT-1:0] align,
    output signed [PATH-1:0] y
);
  localparam WIDE = PATH > VALUE ? PATH : VALUE;
  // the sum is proven to fit PATH
  // verilator lint_off UNUSEDSIGNAL
  wire signed [WIDE-1:0] wide = {{(WIDE - VALUE + 1) {value[VALUE-1]}}, value[VALUE-2:0]};
  // verilator lint_on UNUSEDSIGNAL
  wire [SHIFT-1:0] value_places = align[SHIFT-1] ? {SHIFT{1'b0}} : align;
  wire [SHIFT-1:0] x_places = align[SHIFT-1] ? -align : {SHIFT{1'b0}};
  wire signed [PATH-1:0] raised = wide[PATH-1:0];

  assign y = (x <<< x_places) + (raised <<< value_places);
endmodule
