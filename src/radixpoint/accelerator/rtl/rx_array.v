// LANES output channels by LANES input channels of multiply-accumulate. Row o of w is w[o*LANES*W +: LANES*W].
module rx_array #(
    parameter LANES = 4,
    parameter X = 10,
    parameter W = 10,
    parameter ACC = 23
) (
    input clock,
    input valid,
    input first,
    input last,
    input counts,  // 0: padding
    input [LANES*X-1:0] x,
    input [LANES*LANES*W-1:0] w,
    output reg sums_valid,
    output [LANES*ACC-1:0] sums
);
  wire [LANES*X-1:0] operands = counts ? x : {LANES * X{1'b0}};
  reg ended;
  always @(posedge clock) begin
    ended <= valid & last;
    sums_valid <= ended;
  end

  genvar o;
  generate
    for (o = 0; o < LANES; o = o + 1) begin : gen_row
      rx_dot #(
          .LANES(LANES),
          .X(X),
          .W(W),
          .ACC(ACC)
      ) dot (
          .clock(clock),
          .valid(valid),
          .first(first),
          .x(operands),
          .w(w[o*LANES*W+:LANES*W]),
          .sum(sums[o*ACC+:ACC])
      );
    end
  endgenerate
endmodule
