// The accumulators of one output channel, one for each of PLACES places: adds to the place's sum or, with first, begins it
// anew. A clock from added to sum.
module rx_sums #(
    parameter ACC = 23,
    parameter PLACES = 4,
    parameter PLACE = 2  // bits of the index of a place
) (
    input clock,
    input valid,
    input first,
    input [PLACE-1:0] place,
    input signed [ACC-1:0] added,
    output reg signed [ACC-1:0] sum  // of the place that came last
);
  reg signed [ACC-1:0] sums[0:PLACES-1];
  wire signed [ACC-1:0] next = first ? added : sums[place] + added;

  always @(posedge clock)
    if (valid) begin
      sums[place] <= next;
      sum <= next;
    end
endmodule
