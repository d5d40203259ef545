// Puts words together from the beats of a bus, the first beat lowest. A word is whole while valid is high, at the top of
// word; in the clock in which it is taken, the first beat of the next word may come already.
module rx_gather #(
    parameter BUS = 64,
    parameter BEATS = 4,  // of the longest word
    parameter COUNT = 3   // bits of a number of beats
) (
    input clock,
    input reset,
    input beat_valid,
    input [BUS-1:0] beat,
    output beat_take,
    input [COUNT-1:0] beats,  // of the word that is being put together
    output valid,
    output empty,
    output reg [BUS*BEATS-1:0] word,
    input take
);
  reg [COUNT-1:0] have;
  // what leaves at the bottom
  // verilator lint_off UNUSEDSIGNAL
  wire [BUS*(BEATS+1)-1:0] moved = {beat, word};
  // verilator lint_on UNUSEDSIGNAL

  assign valid = have == beats;
  assign empty = have == 0;
  assign beat_take = beat_valid && (!valid || take);

  always @(posedge clock) begin
    if (beat_take) word <= moved[BUS*(BEATS+1)-1:BUS];
    have <= (take ? {COUNT{1'b0}} : have) + {{(COUNT - 1) {1'b0}}, beat_take};
    if (reset) have <= {COUNT{1'b0}};
  end
endmodule
