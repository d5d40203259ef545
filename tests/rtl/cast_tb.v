// rx_cast: x, shift, rounding, low, high, wrap in; y out.
module testbench #(
    parameter IN = 6,
    parameter OUT = 4,
    parameter SHIFT = 5,
    parameter LEFT = 4
);
  reg signed [63:0] x, shift, rounding, low, high, wrap;
  wire signed [OUT-1:0] y;
  integer source, target, got;

  rx_cast #(IN, OUT, SHIFT, LEFT) dut (
      x[IN-1:0], shift[SHIFT-1:0], rounding[2:0], low[OUT-1:0], high[OUT-1:0], wrap[0], y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = $fscanf(source, "%d %d %d %d %d %d", x, shift, rounding, low, high, wrap);
    while (got == 6) begin
      #1 $fwrite(target, "%0d\n", y);
      got = $fscanf(source, "%d %d %d %d %d %d", x, shift, rounding, low, high, wrap);
    end
    $finish;
  end
endmodule
