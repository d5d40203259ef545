// Writes beats one after the other over AXI4, each as a burst of its own: results are few. A beat is accepted while ready
// is high.
module rx_store #(
    parameter BUS = 64
) (
    input clock,
    input reset,

    input start,  // from this byte address, a multiple of a beat's bytes
    input [63:0] address,
    output idle,  // all that was accepted is written
    output reg failed,  // a beat was refused; until the next start

    input valid,
    output ready,
    input [BUS-1:0] data,

    output reg awvalid,
    input awready,
    output reg [63:0] awaddr,
    output reg wvalid,
    input wready,
    output reg [BUS-1:0] wdata,
    input bvalid,
    output bready,
    input refused
);
  localparam [63:0] STEP = BUS / 8;
  reg [63:0] next;
  reg [3:0] open;  // accepted and not yet answered
  wire accept = valid && ready;

  assign ready = (!awvalid || awready) && (!wvalid || wready) && open != 4'd15;
  assign bready = 1'b1;
  assign idle = open == 0;

  always @(posedge clock) begin
    if (awready) awvalid <= 1'b0;
    if (wready) wvalid <= 1'b0;
    if (accept) begin
      awvalid <= 1'b1;
      awaddr <= next;
      wvalid <= 1'b1;
      wdata <= data;
      next <= next + STEP;
    end
    open <= open + {3'd0, accept} - {3'd0, bvalid};
    if (bvalid && refused) failed <= 1'b1;
    if (start) begin
      next   <= address;
      failed <= 1'b0;
    end
    if (reset) begin
      awvalid <= 1'b0;
      wvalid <= 1'b0;
      open <= 4'd0;
      failed <= 1'b0;
    end
  end
endmodule
