// rx_batch_norm: uses of centre, factor, offset, then x, centre, its alignment, factor, offset, its alignment in; after
// three clocks centred, scaled and y out.
module testbench #(
    parameter PATH = 16,
    parameter MUL = 6,
    parameter FACTOR = 3,
    parameter OFFSET = 3,
    parameter SHIFT = 4
);
  reg signed [63:0] use_centre, use_factor, use_offset, x, centre, centre_align, factor, offset, offset_align;
  wire signed [PATH-1:0] centred, scaled, y;
  reg clock = 1'b0;
  integer source, target, got;

  rx_batch_norm #(PATH, MUL, FACTOR, OFFSET, SHIFT) dut (
      clock, use_centre[0], use_factor[0], use_offset[0], x[PATH-1:0], centre[OFFSET-1:0], centre_align[SHIFT-1:0],
      factor[FACTOR-1:0], offset[OFFSET-1:0], offset_align[SHIFT-1:0], centred, scaled, y);

  initial begin
    source = $fopen("in.txt", "r");
    target = $fopen("out.txt", "w");
    got = 9;
    while (got == 9) begin
      got = $fscanf(source, "%d %d %d %d %d %d %d %d %d", use_centre, use_factor, use_offset, x, centre, centre_align,
                    factor, offset, offset_align);
      repeat (3) begin
        #1 clock = 1'b1;
        #1 clock = 1'b0;
      end
      if (got == 9) $fwrite(target, "%0d %0d %0d\n", centred, scaled, y);
    end
    $finish;
  end
endmodule
