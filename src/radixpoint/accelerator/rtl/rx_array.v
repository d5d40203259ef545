// LANES output channels by LANES input channels of multiply-accumulate, for up to PLACES places whose taps alternate.
// Row o of w is w[o*LANES*W +: LANES*W].
module rx_array #(
    parameter LANES = 4,
    parameter X = 10,
    parameter W = 10,
    parameter ACC = 23,
    parameter PLACES = 1,
    parameter PLACE = 1  // bits of the index of a place
) (
    input clock,
    input valid,
    input first,
    input last,
    input counts,  // 0: padding
    input [PLACE-1:0] place,
    input [LANES*X-1:0] x,
    input [LANES*LANES*W-1:0] w,
    output reg sums_valid,
    output [LANES*ACC-1:0] sums
);
  wire [LANES*X-1:0] operands = counts ? x : {LANES * X{1'b0}};

  // With one place the sums stay where the products are added. With several, those keep nothing, and a clock is added.
  // verilator lint_off UNUSEDSIGNAL
  reg [1:0] added_valid, added_first, ended;
  reg [2*PLACE-1:0] added_place;
  // verilator lint_on UNUSEDSIGNAL
  always @(posedge clock) begin
    added_valid <= {added_valid[0], valid};
    added_first <= {added_first[0], first};
    added_place <= {added_place[PLACE-1:0], place};
    ended <= {ended[0], valid & last};
    sums_valid <= PLACES == 1 ? ended[0] : ended[1];
  end

  genvar o;
  generate
    for (o = 0; o < LANES; o = o + 1) begin : gen_row
      wire signed [ACC-1:0] sum;
      rx_dot #(
          .LANES(LANES),
          .X(X),
          .W(W),
          .ACC(ACC)
      ) dot (
          .clock(clock),
          .valid(valid),
          .first(PLACES == 1 ? first : 1'b1),
          .x(operands),
          .w(w[o*LANES*W+:LANES*W]),
          .sum(sum)
      );
      if (PLACES == 1) begin : gen_one
        assign sums[o*ACC+:ACC] = sum;
      end else begin : gen_several
        rx_sums #(
            .ACC(ACC),
            .PLACES(PLACES),
            .PLACE(PLACE)
        ) kept (
            .clock(clock),
            .valid(added_valid[1]),
            .first(added_first[1]),
            .place(added_place[2*PLACE-1:PLACE]),
            .added(sum),
            .sum(sums[o*ACC+:ACC])
        );
      end
    end
  endgenerate
endmodule
