// One rounding of floor + fraction to an integer. The fraction is known by two bits: half (it is at least one
// half) and rest (something is left beside that half). Modes are those of docs/arithmetic.md, numbered here:
// 0 TRN, 1 TRN_ZERO, 2 RND, 3 RND_MIN_INF, 4 RND_INF, 5 RND_ZERO, 6 RND_CONV, 7 STOCHASTIC (up where drawn is set).
module rx_round #(
    parameter BITS = 8
) (
    input signed [BITS-1:0] floor,
    input half,
    input rest,
    input drawn,
    input [2:0] rounding,
    output signed [BITS:0] y
);
  wire negative = floor[BITS-1];
  reg up;

  always @* begin
    case (rounding)
      3'd1: up = negative & (half | rest);
      3'd2: up = half;
      3'd3: up = half & rest;
      3'd4: up = half & (rest | ~negative);
      3'd5: up = half & (rest | negative);
      3'd6: up = half & (rest | floor[0]);
      3'd7: up = drawn;
      default: up = 1'b0;
    endcase
  end

  assign y = {floor[BITS-1], floor} + {{BITS{1'b0}}, up};
endmodule
