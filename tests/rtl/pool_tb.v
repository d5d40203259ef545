// rx_pool: valid, first, counts, maximum, x in, a line a clock; y out.
module testbench #(
    parameter IN  = 4,
    parameter OUT = 8
);
  reg signed [63:0] valid, first, counts, maximum, x;
  wire signed [OUT-1:0] y;
  reg clock = 1'b0;
  integer source, target, got;

  rx_pool #(IN, OUT) dut (clock, valid[0], first[0], counts[0], maximum[0], x[IN-1:0], y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = 5;
    while (got == 5) begin
      got = $fscanf(source, "%d %d %d %d %d", valid, first, counts, maximum, x);
      #1 clock = 1'b1;
      #1 clock = 1'b0;
      if (got == 5) $fwrite(target, "%0d\n", y);
    end
    $finish;
  end
endmodule
