// The accelerator on a bus. Registers (rx_registers) say where the program, the images and the results lie in a memory that
// is read and written over AXI4. A run takes batches one after the other: fetches the images of a batch, then the program,
// which is descriptors, weights and parameters in the order in which they are needed, and writes the results.
//
// In memory every word begins with a beat of BUS bits of its own, lowest bits first.
module rx_axi #(
    `include "parameters.vh"
) (
    input aclk,
    input aresetn,
    output interrupt,

    input [7:0] s_axi_awaddr,
    input s_axi_awvalid,
    output s_axi_awready,
    input [31:0] s_axi_wdata,
    input [3:0] s_axi_wstrb,
    input s_axi_wvalid,
    output s_axi_wready,
    output [1:0] s_axi_bresp,
    output s_axi_bvalid,
    input s_axi_bready,
    input [7:0] s_axi_araddr,
    input s_axi_arvalid,
    output s_axi_arready,
    output [31:0] s_axi_rdata,
    output [1:0] s_axi_rresp,
    output s_axi_rvalid,
    input s_axi_rready,

    output [63:0] m_axi_araddr,
    output [7:0] m_axi_arlen,
    output [2:0] m_axi_arsize,
    output [1:0] m_axi_arburst,
    output [3:0] m_axi_arcache,
    output [2:0] m_axi_arprot,
    output m_axi_arvalid,
    input m_axi_arready,
    input [BUS-1:0] m_axi_rdata,
    // only an error matters
    // verilator lint_off UNUSEDSIGNAL
    input [1:0] m_axi_rresp,
    // verilator lint_on UNUSEDSIGNAL
    input m_axi_rlast,
    input m_axi_rvalid,
    output m_axi_rready,
    output [63:0] m_axi_awaddr,
    output [7:0] m_axi_awlen,
    output [2:0] m_axi_awsize,
    output [1:0] m_axi_awburst,
    output [3:0] m_axi_awcache,
    output [2:0] m_axi_awprot,
    output m_axi_awvalid,
    input m_axi_awready,
    output [BUS-1:0] m_axi_wdata,
    output [BUS/8-1:0] m_axi_wstrb,
    output m_axi_wlast,
    output m_axi_wvalid,
    input m_axi_wready,
    // verilator lint_off UNUSEDSIGNAL
    input [1:0] m_axi_bresp,
    // verilator lint_on UNUSEDSIGNAL
    input m_axi_bvalid,
    output m_axi_bready
);
  localparam LANE = 2 * OFFSET + FACTOR + DIVISOR + 7 * SHIFT;
  localparam DESCRIPTOR_BEATS = (64 + BUS - 1) / BUS;
  localparam WEIGHT_BEATS = (LANES * LANES * W + BUS - 1) / BUS;
  localparam PARAMETER_BEATS = (LANES * LANE + BUS - 1) / BUS;
  localparam IMAGE_BEATS = (LANES * PIXEL + BUS - 1) / BUS;
  localparam RESULT_BEATS = (LANES * WIDE + BUS - 1) / BUS;
  localparam LISTED = WEIGHT_BEATS > PARAMETER_BEATS ? WEIGHT_BEATS : PARAMETER_BEATS;
  localparam OTHER = DESCRIPTOR_BEATS > IMAGE_BEATS ? DESCRIPTOR_BEATS : IMAGE_BEATS;
  localparam MOST = LISTED > OTHER ? LISTED : OTHER;
  localparam BEAT = $clog2(MOST + 1);  // bits of a number of beats
  localparam [31:0] IMAGES = BATCH * IMAGE_WORDS, RESULTS = BATCH * LOGIT_WORDS;  // words of a batch
  localparam [31:0] IMAGES_BEATS = BATCH * IMAGE_WORDS * IMAGE_BEATS;
  localparam [63:0] IMAGES_BYTES = BATCH * IMAGE_WORDS * IMAGE_BEATS * (BUS / 8);
  localparam [63:0] RESULTS_BYTES = BATCH * LOGIT_WORDS * RESULT_BEATS * (BUS / 8);
  localparam ALIGNED = $clog2(BUS / 8);

  localparam READ = 4'd1, WRITE = 4'd2, SHORT = 4'd3, LONG = 4'd4, SETTING = 4'd5, STOPPED = 4'd6;  // errors
  localparam IDLE = 4'd0, ASK_IMAGES = 4'd1, FILL = 4'd2, FILL_WIDE = 4'd3, ASK_PROGRAM = 4'd4, START = 4'd5, RUN = 4'd6,
      ASK_RESULTS = 4'd7, LOOK = 4'd8, KEEP = 4'd9, SEND = 4'd10, WRITTEN = 4'd11, STOP = 4'd12;

  wire clock = aclk, reset = ~aresetn;
  reg [3:0] state, error;
  reg ended;
  reg [31:0] batch, clocks, waited, word;
  reg [63:0] image_at, result_at;

  // ------------------------------------------------------------------------------------------ registers
  wire start, stop;
  wire [63:0] program_at, images_at, results_at;
  wire [31:0] program_beats, batches;
  rx_registers #(
      .IDENTIFIER(IDENTIFIER),
      .SHAPE({BATCH[15:0], BUS[15:0]})
  ) registers (
      .clock(clock),
      .reset(reset),
      .s_axi_awaddr(s_axi_awaddr),
      .s_axi_awvalid(s_axi_awvalid),
      .s_axi_awready(s_axi_awready),
      .s_axi_wdata(s_axi_wdata),
      .s_axi_wstrb(s_axi_wstrb),
      .s_axi_wvalid(s_axi_wvalid),
      .s_axi_wready(s_axi_wready),
      .s_axi_bresp(s_axi_bresp),
      .s_axi_bvalid(s_axi_bvalid),
      .s_axi_bready(s_axi_bready),
      .s_axi_araddr(s_axi_araddr),
      .s_axi_arvalid(s_axi_arvalid),
      .s_axi_arready(s_axi_arready),
      .s_axi_rdata(s_axi_rdata),
      .s_axi_rresp(s_axi_rresp),
      .s_axi_rvalid(s_axi_rvalid),
      .s_axi_rready(s_axi_rready),
      .start(start),
      .stop(stop),
      .program_at(program_at),
      .program_beats(program_beats),
      .batches(batches),
      .images_at(images_at),
      .results_at(results_at),
      .busy(state != IDLE || ended),
      .ended(ended),
      .error(error),
      .clocks(clocks),
      .waited(waited),
      .interrupt(interrupt)
  );
  wire [ALIGNED-1:0] beside = program_at[ALIGNED-1:0] | images_at[ALIGNED-1:0] | results_at[ALIGNED-1:0];
  wire impossible = beside != 0 || batches == 0 || program_beats == 0;

  // --------------------------------------------------------------------------------------- what is read
  wire fetch_idle, fetch_failed, beat_valid, beat_take, gathered, empty, core_read;
  wire [BUS-1:0] beat;
  wire [1:0] upcoming;
  wire fills = state == FILL || state == FILL_WIDE;
  wire filled = gathered && (state == FILL_WIDE || (state == FILL && (IMAGE_WIDE < 0 || IMAGE_NARROW < 0)));
  rx_fetch #(
      .BUS(BUS),
      .LOG_DEPTH(LOG_DEPTH)
  ) fetch (
      .clock(clock),
      .reset(reset),
      .start(state == ASK_IMAGES || (state == ASK_PROGRAM && fetch_idle)),
      .address(state == ASK_IMAGES ? image_at : program_at),
      .beats(state == ASK_IMAGES ? IMAGES_BEATS : program_beats),
      .stop(state == STOP),
      .idle(fetch_idle),
      .failed(fetch_failed),
      .valid(beat_valid),
      .data(beat),
      .take(beat_take || (state == STOP && beat_valid)),
      .arvalid(m_axi_arvalid),
      .arready(m_axi_arready),
      .araddr(m_axi_araddr),
      .arlen(m_axi_arlen),
      .rvalid(m_axi_rvalid),
      .rready(m_axi_rready),
      .rdata(m_axi_rdata),
      .refused(m_axi_rresp[1]),
      .rlast(m_axi_rlast)
  );
  assign m_axi_arsize  = ALIGNED[2:0];
  assign m_axi_arburst = 2'b01;
  assign m_axi_arcache = 4'b0011;
  assign m_axi_arprot  = 3'b000;

  reg [BEAT-1:0] beats;
  always @*
    case (upcoming)
      2'd0: beats = DESCRIPTOR_BEATS[BEAT-1:0];
      2'd1: beats = WEIGHT_BEATS[BEAT-1:0];
      default: beats = PARAMETER_BEATS[BEAT-1:0];
    endcase
  // the rest of a last beat is empty
  // verilator lint_off UNUSEDSIGNAL
  wire [BUS*MOST-1:0] gathered_word;
  wire [BUS*DESCRIPTOR_BEATS-1:0] descriptor_word = gathered_word[BUS*MOST-1-:BUS*DESCRIPTOR_BEATS];
  wire [BUS*WEIGHT_BEATS-1:0] weight_word = gathered_word[BUS*MOST-1-:BUS*WEIGHT_BEATS];
  wire [BUS*PARAMETER_BEATS-1:0] parameter_word = gathered_word[BUS*MOST-1-:BUS*PARAMETER_BEATS];
  wire [BUS*IMAGE_BEATS-1:0] image_word = gathered_word[BUS*MOST-1-:BUS*IMAGE_BEATS];
  // verilator lint_on UNUSEDSIGNAL
  rx_gather #(
      .BUS(BUS),
      .BEATS(MOST),
      .COUNT(BEAT)
  ) gather (
      .clock(clock),
      .reset(reset || state == ASK_IMAGES || state == START || state == STOP),
      .beat_valid(beat_valid && (fills || state == RUN)),
      .beat(beat),
      .beat_take(beat_take),
      .beats(fills ? IMAGE_BEATS[BEAT-1:0] : beats),
      .valid(gathered),
      .empty(empty),
      .word(gathered_word),
      .take(filled || core_read)
  );

  // ------------------------------------------------------------------------------------- the accelerator
  wire core_done, core_waiting, descriptor_read, weight_read, parameter_read;
  wire runs = state == RUN;
  reg [LANES*LANE-1:0] parameters;  // of the tile that is computed, while those of the next one are gathered
  always @(posedge clock) if (parameter_read) parameters <= parameter_word[LANES*LANE-1:0];
  assign core_read = descriptor_read || weight_read || parameter_read;

  wire [LANES*X-1:0] narrow;
  wire [LANES*WIDE-1:0] wide, wide_read;
  genvar g;
  generate
    for (g = 0; g < LANES; g = g + 1) begin : gen_pixel
      // verilator lint_off UNUSEDSIGNAL
      wire [WIDE+X+PIXEL-1:0] value = {{(WIDE + X) {image_word[g*PIXEL+PIXEL-1]}}, image_word[g*PIXEL+:PIXEL]};
      // verilator lint_on UNUSEDSIGNAL
      assign narrow[g*X+:X] = value[X-1:0];
      assign wide[g*WIDE+:WIDE] = value[WIDE-1:0];
    end
  endgenerate
  wire to_narrow = state == FILL && IMAGE_NARROW >= 0;
  wire to_wide = state == FILL_WIDE || (state == FILL && IMAGE_NARROW < 0);
  wire [31:0] base = to_narrow ? IMAGE_NARROW : to_wide ? IMAGE_WIDE : LOGIT_ADDRESS;
  // addresses are far below 32 bits
  // verilator lint_off UNUSEDSIGNAL
  wire [31:0] host_address = base + word;
  // verilator lint_on UNUSEDSIGNAL
  rx_core core (
      .clock(clock),
      .reset(reset || state == STOP),
      .start(state == START),
      .done(core_done),
      .waiting(core_waiting),
      .upcoming(upcoming),
      .descriptor_read(descriptor_read),
      .descriptor_ready(gathered && runs && upcoming == 2'd0),
      .descriptor_data(descriptor_word[63:0]),
      .weight_read(weight_read),
      .weight_ready(gathered && runs && upcoming == 2'd1),
      .weight_data(weight_word[LANES*LANES*W-1:0]),
      .parameter_read(parameter_read),
      .parameter_ready(gathered && runs && upcoming == 2'd2),
      .parameter_data(parameters),
      // lists have no addresses; taps are for simulation
      // verilator lint_off PINCONNECTEMPTY
      .descriptor_address(),
      .weight_address(),
      .parameter_address(),
      .tap_valid(),
      .taps(),
      // verilator lint_on PINCONNECTEMPTY
      .host(!runs),
      .host_write_narrow(to_narrow && gathered),
      .host_write_wide(to_wide && gathered),
      .host_address(host_address[ADDRESS-1:0]),
      .host_narrow(narrow),
      .host_wide(wide),
      .host_read(wide_read)
  );

  // ------------------------------------------------------------------------------------ what is written
  wire store_idle, store_failed, store_ready;
  reg [BUS*RESULT_BEATS-1:0] result;
  reg [31:0] sent;
  // verilator lint_off UNUSEDSIGNAL
  wire [BUS*RESULT_BEATS+LANES*WIDE-1:0] padded = {{BUS * RESULT_BEATS{1'b0}}, wide_read};
  // verilator lint_on UNUSEDSIGNAL
  rx_store #(
      .BUS(BUS)
  ) store (
      .clock(clock),
      .reset(reset),
      .start(state == ASK_RESULTS),
      .address(result_at),
      .idle(store_idle),
      .failed(store_failed),
      .valid(state == SEND),
      .ready(store_ready),
      .data(result[BUS-1:0]),
      .awvalid(m_axi_awvalid),
      .awready(m_axi_awready),
      .awaddr(m_axi_awaddr),
      .wvalid(m_axi_wvalid),
      .wready(m_axi_wready),
      .wdata(m_axi_wdata),
      .bvalid(m_axi_bvalid),
      .bready(m_axi_bready),
      .refused(m_axi_bresp[1])
  );
  assign m_axi_awlen   = 8'd0;
  assign m_axi_awsize  = ALIGNED[2:0];
  assign m_axi_awburst = 2'b01;
  assign m_axi_awcache = 4'b0011;
  assign m_axi_awprot  = 3'b000;
  assign m_axi_wstrb   = {(BUS / 8) {1'b1}};
  assign m_axi_wlast   = 1'b1;

  // ------------------------------------------------------------------------------------------- the run
  wire out_of_words = core_waiting && fetch_idle && !beat_valid && !gathered;
  wire left_over = !fetch_idle || beat_valid || !empty;
  wire reads = fills || state == ASK_PROGRAM || runs;
  wire writes = state == LOOK || state == KEEP || state == SEND || state == WRITTEN;

  always @(posedge clock) begin
    ended <= 1'b0;
    if (state != IDLE) clocks <= clocks + 1'b1;
    if (runs && core_waiting) waited <= waited + 1'b1;

    case (state)
      IDLE:
      if (start) begin
        state <= impossible ? STOP : ASK_IMAGES;
        error <= impossible ? SETTING : 4'd0;
        clocks <= 32'd0;
        waited <= 32'd0;
        batch <= 32'd0;
        image_at <= images_at;
        result_at <= results_at;
      end
      ASK_IMAGES: begin
        state <= FILL;
        word  <= 32'd0;
      end
      FILL:
      if (filled) begin
        word <= word + 1'b1;
        if (word + 1'b1 == IMAGES) state <= ASK_PROGRAM;
      end else if (gathered) state <= FILL_WIDE;
      FILL_WIDE: begin
        word  <= word + 1'b1;
        state <= word + 1'b1 == IMAGES ? ASK_PROGRAM : FILL;
      end
      ASK_PROGRAM: if (fetch_idle) state <= START;
      START: state <= RUN;
      RUN:
      if (core_done) begin
        state <= left_over ? STOP : ASK_RESULTS;
        error <= left_over ? LONG : 4'd0;
      end else if (out_of_words) begin
        state <= STOP;
        error <= SHORT;
      end
      ASK_RESULTS: begin
        state <= LOOK;
        word  <= 32'd0;
      end
      LOOK: state <= KEEP;  // the word appears a clock after its address
      KEEP: begin
        state  <= SEND;
        result <= padded[BUS*RESULT_BEATS-1:0];
        sent   <= 32'd0;
      end
      SEND:
      if (store_ready) begin
        result <= result >> BUS;
        sent   <= sent + 1'b1;
        if (sent + 1'b1 == RESULT_BEATS) begin
          word  <= word + 1'b1;
          state <= word + 1'b1 == RESULTS ? WRITTEN : LOOK;
        end
      end
      WRITTEN:
      if (store_idle && !store_failed) begin
        batch <= batch + 1'b1;
        image_at <= image_at + IMAGES_BYTES;
        result_at <= result_at + RESULTS_BYTES;
        ended <= batch + 1'b1 == batches;
        state <= batch + 1'b1 == batches ? IDLE : ASK_IMAGES;
      end
      STOP:
      if (fetch_idle && !beat_valid && store_idle) begin
        ended <= 1'b1;
        state <= IDLE;
      end
      default: state <= IDLE;
    endcase

    if (reads && fetch_failed) begin
      state <= STOP;
      error <= READ;
    end
    if (writes && store_failed) begin
      state <= STOP;
      error <= WRITE;
    end
    if (stop && state != IDLE && state != STOP) begin
      state <= STOP;
      error <= STOPPED;
    end
    if (reset) begin
      state <= IDLE;
      ended <= 1'b0;
      clocks <= 32'd0;
      waited <= 32'd0;
    end
  end
endmodule
