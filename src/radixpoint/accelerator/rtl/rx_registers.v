// The registers of rx_axi, over AXI4-Lite with 32 bits, at the addresses 4 x A_. Answered with an error: an address that
// holds none, writing one that is only read, writing a part of one, and writing what a run depends on while it runs.
module rx_registers #(
    parameter [31:0] IDENTIFIER = 0,
    parameter [31:0] SHAPE = 0
) (
    input clock,
    input reset,

    input [7:0] s_axi_awaddr,
    input s_axi_awvalid,
    output s_axi_awready,
    input [31:0] s_axi_wdata,
    input [3:0] s_axi_wstrb,
    input s_axi_wvalid,
    output s_axi_wready,
    output reg [1:0] s_axi_bresp,
    output reg s_axi_bvalid,
    input s_axi_bready,
    input [7:0] s_axi_araddr,
    input s_axi_arvalid,
    output s_axi_arready,
    output reg [31:0] s_axi_rdata,
    output reg [1:0] s_axi_rresp,
    output reg s_axi_rvalid,
    input s_axi_rready,

    output start,  // both for one clock
    output stop,
    output reg [63:0] program_at,
    output reg [31:0] program_beats,
    output reg [31:0] batches,
    output reg [63:0] images_at,
    output reg [63:0] results_at,
    input busy,
    input ended,  // for one clock, with its error: 0 for none
    input [3:0] error,
    input [31:0] clocks,
    input [31:0] waited,
    output interrupt
);
  localparam OKAY = 2'd0, SLVERR = 2'd2;
  localparam A_IDENTIFIER = 6'h0, A_CONTROL = 6'h1, A_STATUS = 6'h2, A_INTERRUPT = 6'h3, A_PROGRAM = 6'h4,
      A_PROGRAM_HIGH = 6'h5, A_PROGRAM_BEATS = 6'h6, A_BATCHES = 6'h7, A_IMAGES = 6'h8, A_IMAGES_HIGH = 6'h9,
      A_RESULTS = 6'ha, A_RESULTS_HIGH = 6'hb, A_CLOCKS = 6'hc, A_WAITED = 6'hd, A_SHAPE = 6'he;

  reg done, enabled;
  reg [3:0] failure;

  // Address and data of a write are kept as they come; it is done when both are there and the last answer is gone.
  reg addressed, filled;
  reg [7:0] address;
  reg [31:0] data;
  reg [3:0] bytes;
  wire write = addressed && filled && !s_axi_bvalid;
  wire [5:0] to = address[7:2];
  wire whole = bytes == 4'hf && address[1:0] == 2'd0;
  wire always_open = to == A_CONTROL || to == A_STATUS || to == A_INTERRUPT;
  wire setting = to >= A_PROGRAM && to <= A_RESULTS_HIGH;
  wire refused_start = to == A_CONTROL && data[0] && busy;
  wire accepted = write && whole && (always_open || (setting && !busy)) && !refused_start;
  assign s_axi_awready = !addressed;
  assign s_axi_wready = !filled;
  assign start = accepted && to == A_CONTROL && data[0];
  assign stop = accepted && to == A_CONTROL && data[1];

  wire read = s_axi_arvalid && s_axi_arready;
  wire [5:0] from = s_axi_araddr[7:2];
  assign s_axi_arready = !s_axi_rvalid;
  assign interrupt = enabled && (done || failure != 0);

  always @(posedge clock) begin
    if (s_axi_awvalid && s_axi_awready) begin
      addressed <= 1'b1;
      address <= s_axi_awaddr;
    end
    if (s_axi_wvalid && s_axi_wready) begin
      filled <= 1'b1;
      data   <= s_axi_wdata;
      bytes  <= s_axi_wstrb;
    end
    if (s_axi_bready) s_axi_bvalid <= 1'b0;
    if (write) begin
      addressed <= 1'b0;
      filled <= 1'b0;
      s_axi_bvalid <= 1'b1;
      s_axi_bresp  <= accepted ? OKAY : SLVERR;
    end
    if (accepted)
      case (to)
        A_STATUS: begin
          done <= 1'b0;
          failure <= 4'd0;
        end
        A_INTERRUPT: enabled <= data[0];
        A_PROGRAM: program_at[31:0] <= data;
        A_PROGRAM_HIGH: program_at[63:32] <= data;
        A_PROGRAM_BEATS: program_beats <= data;
        A_BATCHES: batches <= data;
        A_IMAGES: images_at[31:0] <= data;
        A_IMAGES_HIGH: images_at[63:32] <= data;
        A_RESULTS: results_at[31:0] <= data;
        A_RESULTS_HIGH: results_at[63:32] <= data;
        default: ;
      endcase
    if (start) begin
      done <= 1'b0;
      failure <= 4'd0;
    end
    if (ended) begin
      done <= error == 0;
      failure <= error;
    end

    if (s_axi_rready) s_axi_rvalid <= 1'b0;
    if (read) begin
      s_axi_rvalid <= 1'b1;
      s_axi_rresp  <= OKAY;
      case (from)
        A_IDENTIFIER: s_axi_rdata <= IDENTIFIER;
        A_STATUS: s_axi_rdata <= {20'd0, failure, 6'd0, done, busy};
        A_CONTROL: s_axi_rdata <= 32'd0;
        A_INTERRUPT: s_axi_rdata <= {31'd0, enabled};
        A_PROGRAM: s_axi_rdata <= program_at[31:0];
        A_PROGRAM_HIGH: s_axi_rdata <= program_at[63:32];
        A_PROGRAM_BEATS: s_axi_rdata <= program_beats;
        A_BATCHES: s_axi_rdata <= batches;
        A_IMAGES: s_axi_rdata <= images_at[31:0];
        A_IMAGES_HIGH: s_axi_rdata <= images_at[63:32];
        A_RESULTS: s_axi_rdata <= results_at[31:0];
        A_RESULTS_HIGH: s_axi_rdata <= results_at[63:32];
        A_CLOCKS: s_axi_rdata <= clocks;
        A_WAITED: s_axi_rdata <= waited;
        A_SHAPE: s_axi_rdata <= SHAPE;
        default: begin
          s_axi_rdata <= 32'd0;
          s_axi_rresp <= SLVERR;
        end
      endcase
      if (s_axi_araddr[1:0] != 2'd0) s_axi_rresp <= SLVERR;
    end

    if (reset) begin
      addressed <= 1'b0;
      filled <= 1'b0;
      s_axi_bvalid <= 1'b0;
      s_axi_rvalid <= 1'b0;
      done <= 1'b0;
      failure <= 4'd0;
      enabled <= 1'b0;
      program_at <= 64'd0;
      program_beats <= 32'd0;
      batches <= 32'd0;
      images_at <= 64'd0;
      results_at <= 64'd0;
    end
  end
endmodule
