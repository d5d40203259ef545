// Max and sum pooling of one channel: folds the values of a window, one a clock. Padding takes no part.
module rx_pool #(
    parameter IN  = 13,
    parameter OUT = 20  // holds the sum of a window; at least IN
) (
    input clock,
    input valid,
    input first,
    input counts,
    input maximum,  // 1: maximum, 0: sum
    input signed [IN-1:0] x,
    output reg signed [OUT-1:0] y
);
  wire signed [OUT-1:0] wide = {{(OUT - IN + 1) {x[IN-1]}}, x[IN-2:0]};
  wire signed [OUT-1:0] nothing = maximum ? {1'b1, {(OUT - 1) {1'b0}}} : {OUT{1'b0}};
  wire signed [OUT-1:0] so_far = first ? nothing : y;

  always @(posedge clock)
    if (valid)
      if (!counts) y <= so_far;
      else if (maximum) y <= wide > so_far ? wide : so_far;
      else y <= so_far + wide;
endmodule
