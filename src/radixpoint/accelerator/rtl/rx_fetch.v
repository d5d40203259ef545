// Reads a stretch of memory in order over AXI4: address bursts ahead of the data, as far as a FIFO has room for what was
// asked. A beat is taken from the FIFO in the clock in which take is high, which it may be while valid is.
module rx_fetch #(
    parameter BUS = 64,      // bits of a beat
    parameter LOG_DEPTH = 6  // of the FIFO, in beats; at least one burst
) (
    input clock,
    input reset,

    input start,  // from this byte address, a multiple of a beat's bytes
    input [63:0] address,
    input [31:0] beats,  // that are read, at least 1
    input stop,  // ask for no more
    output idle,  // nothing is asked for or on its way
    output reg failed,  // a beat came with an error; until the next start

    output valid,
    output [BUS-1:0] data,
    input take,

    output reg arvalid,
    input arready,
    output reg [63:0] araddr,
    output reg [7:0] arlen,
    input rvalid,
    output rready,
    input [BUS-1:0] rdata,
    input refused,
    input rlast
);
  localparam BYTES = $clog2(BUS / 8);  // bits of the address within a beat
  localparam LONGEST = LOG_DEPTH > 4 ? 16 : 1 << LOG_DEPTH;  // beats of a burst

  // What is left to ask for. A burst ends before the next 4 KiB.
  reg [63:0] next;
  reg [31:0] left;
  wire [31:0] in_page = (32'd4096 - {20'd0, next[11:0]}) >> BYTES;
  wire [31:0] least = left < in_page ? left : in_page;
  wire [31:0] burst = least < LONGEST ? least : LONGEST;

  // Beats in the FIFO or on their way never outnumber its words.
  reg [BUS-1:0] words[0:(1<<LOG_DEPTH)-1];
  reg [LOG_DEPTH-1:0] write_at, read_at;
  reg [LOG_DEPTH:0] held, promised;
  wire [31:0] room = (32'd1 << LOG_DEPTH) - {{(31 - LOG_DEPTH) {1'b0}}, promised};
  wire ask = !arvalid && left != 0 && burst <= room;
  reg [LOG_DEPTH:0] bursts;  // whose last beat has not come

  assign valid = held != 0;
  assign data = words[read_at];
  assign rready = 1'b1;
  assign idle = left == 0 && !arvalid && bursts == 0;

  always @(posedge clock) begin
    if (ask) begin
      arvalid <= 1'b1;
      araddr <= next;
      arlen <= burst[7:0] - 8'd1;
      next <= next + ({32'd0, burst} << BYTES);
      left <= left - burst;
    end else if (arready) arvalid <= 1'b0;
    if (rvalid) begin
      words[write_at] <= rdata;
      write_at <= write_at + 1'b1;
      if (refused) failed <= 1'b1;
    end
    if (take) read_at <= read_at + 1'b1;
    held <= held + {{LOG_DEPTH{1'b0}}, rvalid} - {{LOG_DEPTH{1'b0}}, take};
    promised <= promised + (ask ? burst[LOG_DEPTH:0] : {(LOG_DEPTH + 1) {1'b0}}) - {{LOG_DEPTH{1'b0}}, take};
    bursts <= bursts + {{LOG_DEPTH{1'b0}}, ask} - {{LOG_DEPTH{1'b0}}, rvalid && rlast};

    if (start) begin
      next <= address;
      left <= beats;
      failed <= 1'b0;
    end
    if (stop) left <= 32'd0;
    if (reset) begin
      arvalid <= 1'b0;
      left <= 32'd0;
      failed <= 1'b0;
      write_at <= {LOG_DEPTH{1'b0}};
      read_at <= {LOG_DEPTH{1'b0}};
      held <= {(LOG_DEPTH + 1) {1'b0}};
      promised <= {(LOG_DEPTH + 1) {1'b0}};
      bursts <= {(LOG_DEPTH + 1) {1'b0}};
    end
  end
endmodule
