// rx_array of 2 x 2: valid, first, last, counts, place, x0, x1, w00, w01, w10, w11 in, a line a clock; out: valid, sums.
module testbench #(
    parameter X   = 3,
    parameter W   = 3,
    parameter ACC = 8,
    parameter PLACES = 1,
    parameter PLACE = 1
);
  reg signed [63:0] valid, first, last, counts, place, x0, x1, w00, w01, w10, w11;
  wire sums_valid;
  wire [2*ACC-1:0] sums;
  wire signed [ACC-1:0] low = sums[ACC-1:0], high = sums[2*ACC-1:ACC];
  reg clock = 1'b0;
  integer source, target, got;

  rx_array #(2, X, W, ACC, PLACES, PLACE) dut (
      clock, valid[0], first[0], last[0], counts[0], place[PLACE-1:0], {x1[X-1:0], x0[X-1:0]},
      {w11[W-1:0], w10[W-1:0], w01[W-1:0], w00[W-1:0]}, sums_valid, sums);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = 11;
    while (got == 11) begin
      got = $fscanf(source, "%d %d %d %d %d %d %d %d %d %d %d", valid, first, last, counts, place, x0, x1, w00, w01, w10, w11);
      #1 clock = 1'b1;
      #1 clock = 1'b0;
      if (got == 11) $fwrite(target, "%0d %0d %0d\n", sums_valid, low, high);
    end
    $finish;
  end
endmodule
