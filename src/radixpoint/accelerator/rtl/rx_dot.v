// Multiply-accumulate: sum of LANES products, added to the sum so far or, with first, replacing it. All exact.
// Two clocks from operands to sum. A lane that is not to count brings x = 0.
module rx_dot #(
    parameter LANES = 4,
    parameter X = 10,   // bits of an activation
    parameter W = 10,   // bits of a weight
    parameter ACC = 23  // bits of the accumulator, as proven by the exporter
) (
    input clock,
    input valid,
    input first,
    input [LANES*X-1:0] x,
    input [LANES*W-1:0] w,
    output reg signed [ACC-1:0] sum
);
  localparam TOTAL = X + W + $clog2(LANES);
  localparam WIDE = TOTAL > ACC ? TOTAL : ACC;

  wire [LANES*(X+W)-1:0] products;
  genvar g;
  generate
    for (g = 0; g < LANES; g = g + 1) begin : gen_product
      wire signed [X-1:0] a = x[g*X+:X];
      wire signed [W-1:0] b = w[g*W+:W];
      assign products[g*(X+W)+:(X+W)] = a * b;
    end
  endgenerate

  integer i;
  // the sum is proven to fit ACC
  // verilator lint_off UNUSEDSIGNAL
  reg signed [WIDE-1:0] total;
  // verilator lint_on UNUSEDSIGNAL
  always @* begin
    total = {WIDE{1'b0}};
    for (i = 0; i < LANES; i = i + 1)
      total = total
          + {{(WIDE - X - W + 1) {products[i*(X+W)+X+W-1]}}, products[i*(X+W)+:(X+W-1)]};
  end

  reg signed [ACC-1:0] added;
  reg added_valid, added_first;
  always @(posedge clock) begin
    added <= total[ACC-1:0];
    added_valid <= valid;
    added_first <= first;
    if (added_valid) sum <= added_first ? added : sum + added;
  end
endmodule
