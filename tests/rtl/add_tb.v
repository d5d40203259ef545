// rx_add: valid, first, x, both alignments in, a line a clock; y out.
module testbench #(
    parameter IN = 4,
    parameter OUT = 9,
    parameter SHIFT = 3
);
  reg signed [63:0] valid, first, x, align_first, align_second;
  wire signed [OUT-1:0] y;
  reg clock = 1'b0;
  integer source, target, got;

  rx_add #(IN, OUT, SHIFT) dut (
      clock, valid[0], first[0], x[IN-1:0], align_first[SHIFT-1:0], align_second[SHIFT-1:0], y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = 5;
    while (got == 5) begin
      got = $fscanf(source, "%d %d %d %d %d", valid, first, x, align_first, align_second);
      #1 clock = 1'b1;
      #1 clock = 1'b0;
      if (got == 5) $fwrite(target, "%0d\n", y);
    end
    $finish;
  end
endmodule
