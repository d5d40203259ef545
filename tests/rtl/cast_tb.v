// rx_cast: x, shift, rounding, low, high, wrap, draw in; y out.
module testbench #(
    parameter IN = 6,
    parameter OUT = 4,
    parameter SHIFT = 5,
    parameter LEFT = 4,
    parameter STOCHASTIC = 0
);
  reg signed [63:0] x, shift, rounding, low, high, wrap;
  reg [63:0] draw;
  wire signed [OUT-1:0] y;
  integer source, target, got;

  rx_cast #(IN, OUT, SHIFT, LEFT, STOCHASTIC) dut (
      x[IN-1:0], shift[SHIFT-1:0], rounding[2:0], low[OUT-1:0], high[OUT-1:0], wrap[0], draw, y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = $fscanf(source, "%d %d %d %d %d %d %h", x, shift, rounding, low, high, wrap, draw);
    while (got == 7) begin
      #1 $fwrite(target, "%0d\n", y);
      got = $fscanf(source, "%d %d %d %d %d %d %h", x, shift, rounding, low, high, wrap, draw);
    end
    $finish;
  end
endmodule
