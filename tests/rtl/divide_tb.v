// rx_divide: x, divisor, shift, rounding, low, high, wrap in; y and the clocks it took out.
module testbench #(
    parameter IN = 6,
    parameter OUT = 5,
    parameter DIVISOR = 4,
    parameter SHIFT = 4,
    parameter BITS = 14
);
  reg signed [63:0] x, divisor, shift, rounding, low, high, wrap;
  wire y_valid;
  wire signed [OUT-1:0] y;
  reg clock = 1'b0, valid = 1'b0;
  integer source, target, got, clocks;

  rx_divide #(IN, OUT, DIVISOR, SHIFT, BITS) dut (
      clock, valid, x[IN-1:0], divisor[DIVISOR-1:0], shift[SHIFT-1:0], rounding[2:0], low[OUT-1:0], high[OUT-1:0],
      wrap[0], y_valid, y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = $fscanf(source, "%d %d %d %d %d %d %d", x, divisor, shift, rounding, low, high, wrap);
    while (got == 7) begin
      valid = 1'b1;
      clocks = 0;
      while (clocks == 0 || (!y_valid && clocks < 1000)) begin
        #1 clock = 1'b1;
        #1 clock = 1'b0;
        valid  = 1'b0;
        clocks = clocks + 1;
      end
      $fwrite(target, "%0d %0d\n", y, clocks);
      got = $fscanf(source, "%d %d %d %d %d %d %d", x, divisor, shift, rounding, low, high, wrap);
    end
    $finish;
  end
endmodule
