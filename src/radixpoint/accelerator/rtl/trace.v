// Writes what every stage of the accelerator computes to the file of +trace=FILE; for simulation only. A line is stage
// (8 bits), address behind the descriptor (24), batch (32); then LANES values; all as 64-bit integers.
module trace #(
    parameter LANES = 4,
    parameter PATH = 26,
    parameter DESCRIPTOR = 12
) (
    input clock,
    input runs,
    input [31:0] batch,
    input [DESCRIPTOR-1:0] descriptor,
    input [7:0] tap_valid,
    input [8*LANES*PATH-1:0] taps
);
  integer file, stage, lane;
  reg [8*256-1:0] name;
  reg [64*(LANES+1)-1:0] line;

  initial begin
    file = 0;
    if ($value$plusargs("trace=%s", name)) file = $fopen(name, "wb");
  end

  // verilator lint_off BLKSEQ
  always @(posedge clock)
    if (file != 0 && runs)
      for (stage = 0; stage < 8; stage = stage + 1)
        if (tap_valid[stage]) begin
          line[63:0] = {batch, {(24 - DESCRIPTOR) {1'b0}}, descriptor, stage[7:0]};
          for (lane = 0; lane < LANES; lane = lane + 1)
            line[64*(lane+1)+:64] = {{(65 - PATH) {taps[(stage*LANES+lane)*PATH+PATH-1]}},
                                     taps[(stage*LANES+lane)*PATH+:PATH-1]};
          $fwrite(file, "%u", line);
        end
  // verilator lint_on BLKSEQ
endmodule
