// Runs the images of a file through rx_axi beside a memory that answers with pauses, and compares logits with golden ones.
// Says FAIL, too, where the bus is used against its rules. Options are those of testbench.v, and
//   +program=FILE what the memory holds (default program.bin)
//   +pauses=N     of 16 clocks, in how many the memory does nothing (default 4)
`timescale 1ns / 1ps
// verilator lint_off UNUSEDSIGNAL
// verilator lint_off WIDTHEXPAND
// verilator lint_off WIDTHTRUNC
module testbench #(
    `include "parameters.vh"
);
  localparam STARTED = 2;  // batches a start, at most
  localparam BYTES = BUS / 8, IMAGE_BEATS = (LANES * PIXEL + BUS - 1) / BUS, RESULT_BEATS = (LANES * WIDE + BUS - 1) / BUS;
  localparam PROGRAM = 13, IMAGES = PROGRAM + PROGRAM_BEATS + 3, RESULTS = IMAGES + STARTED * BATCH * IMAGE_WORDS * IMAGE_BEATS + 5;
  localparam MEMORY = RESULTS + STARTED * BATCH * LOGIT_WORDS * RESULT_BEATS;  // in beats

  reg clock, reset = 1'b1;
  initial begin
    clock = 1'b0;
    forever #5 clock = ~clock;
  end

  reg [7:0] s_awaddr, s_araddr;
  reg [31:0] s_wdata;
  reg s_awvalid = 1'b0, s_wvalid = 1'b0, s_arvalid = 1'b0;
  wire s_awready, s_wready, s_bvalid, s_arready, s_rvalid, interrupt;
  wire [1:0] s_bresp, s_rresp;
  wire [31:0] s_rdata;
  wire [63:0] araddr, awaddr;
  wire [7:0] arlen, awlen;
  wire [2:0] arsize, awsize, arprot, awprot;
  wire [1:0] arburst, awburst;
  wire [3:0] arcache, awcache;
  wire arvalid, rready, awvalid, wvalid, wlast, bready;
  wire [BUS-1:0] wdata;
  wire [BUS/8-1:0] wstrb;
  reg arready, rvalid, rlast, awready, wready, bvalid;
  reg [BUS-1:0] rdata;

  rx_axi axi (
      .aclk(clock),
      .aresetn(~reset),
      .interrupt(interrupt),
      .s_axi_awaddr(s_awaddr),
      .s_axi_awvalid(s_awvalid),
      .s_axi_awready(s_awready),
      .s_axi_wdata(s_wdata),
      .s_axi_wstrb(4'hf),
      .s_axi_wvalid(s_wvalid),
      .s_axi_wready(s_wready),
      .s_axi_bresp(s_bresp),
      .s_axi_bvalid(s_bvalid),
      .s_axi_bready(1'b1),
      .s_axi_araddr(s_araddr),
      .s_axi_arvalid(s_arvalid),
      .s_axi_arready(s_arready),
      .s_axi_rdata(s_rdata),
      .s_axi_rresp(s_rresp),
      .s_axi_rvalid(s_rvalid),
      .s_axi_rready(1'b1),
      .m_axi_araddr(araddr),
      .m_axi_arlen(arlen),
      .m_axi_arsize(arsize),
      .m_axi_arburst(arburst),
      .m_axi_arcache(arcache),
      .m_axi_arprot(arprot),
      .m_axi_arvalid(arvalid),
      .m_axi_arready(arready),
      .m_axi_rdata(rdata),
      .m_axi_rresp(2'b00),
      .m_axi_rlast(rlast),
      .m_axi_rvalid(rvalid),
      .m_axi_rready(rready),
      .m_axi_awaddr(awaddr),
      .m_axi_awlen(awlen),
      .m_axi_awsize(awsize),
      .m_axi_awburst(awburst),
      .m_axi_awcache(awcache),
      .m_axi_awprot(awprot),
      .m_axi_awvalid(awvalid),
      .m_axi_awready(awready),
      .m_axi_wdata(wdata),
      .m_axi_wstrb(wstrb),
      .m_axi_wlast(wlast),
      .m_axi_wvalid(wvalid),
      .m_axi_wready(wready),
      .m_axi_bresp(2'b00),
      .m_axi_bvalid(bvalid),
      .m_axi_bready(bready)
  );

  integer images_file, golden_file, logits_file, program_file, pauses, limit;
  integer count, left, word, beat, got, differing, waited, batches, first_batch, byte_at;
  reg [63:0] clocks;
  reg [31:0] stated;
  reg [8*256-1:0] name;

  trace #(
      .LANES(LANES),
      .PATH(PATH),
      .DESCRIPTOR(DESCRIPTOR)
  ) traced (
      .clock(clock),
      .runs(axi.runs),
      .batch(first_batch + axi.batch),
      .descriptor(axi.core.accelerator.descriptor_address),
      .tap_valid(axi.core.tap_valid),
      .taps(axi.core.taps)
  );

  // ---------------------------------------------------------------------------------------- the memory
  reg [BUS-1:0] memory[0:MEMORY-1];
  reg [31:0] random;
  reg failed;
  initial failed = 1'b0;
  reg [63:0] asked_at[0:15], written_at[0:15];
  reg [7:0] asked_beats[0:15];
  reg [BUS-1:0] written[0:15];
  reg [3:0] asked_in, asked_out, aw_in, w_in, write_out;
  reg [7:0] at;  // beat of the burst
  reg [4:0] answers;
  reg was_asking, was_addressing, was_writing;
  reg [63:0] asked_before, addressed_before;
  reg [BUS-1:0] written_before;
  wire [3:0] asked_room = asked_in + 4'd3 - asked_out, aw_room = aw_in + 4'd3 - write_out, w_room = w_in + 4'd3 - write_out;
  wire [63:0] read_from = asked_at[asked_out] / BYTES + {56'd0, at};
  wire [63:0] write_to = written_at[write_out] / BYTES;

  task automatic fail(input [8*40-1:0] why);
    begin
      $display("FAIL: %0s", why);
      failed = 1'b1;  // what follows in the same instant still runs
      $finish;
    end
  endtask

  always @(posedge clock) begin
    random  <= random * 32'd1664525 + 32'd1013904223;
    arready <= !reset && asked_room < 12 && random[31:28] >= pauses;
    awready <= !reset && aw_room < 12 && random[27:24] >= pauses;
    wready  <= !reset && w_room < 12 && random[23:20] >= pauses;

    if (!reset && arvalid && arready) begin
      asked_at[asked_in] <= araddr;
      asked_beats[asked_in] <= arlen;
      asked_in <= asked_in + 1'b1;
      if (araddr % BYTES != 0 || arsize != $clog2(BYTES) || arburst != 2'b01 || arcache != 4'b0011 || arprot != 0)
        fail("a read of another kind");
      if (araddr[11:0] + (arlen + 1) * BYTES > 4096) fail("a burst across 4 KiB");
      if (araddr / BYTES + arlen >= MEMORY) fail("a read beyond the memory");
    end
    if (!reset && was_asking && (!arvalid || araddr != asked_before)) fail("a read withdrawn");
    was_asking   <= arvalid && !arready;
    asked_before <= araddr;
    if (!reset && rvalid && !rready) fail("no room for what was asked for");
    rvalid <= asked_in != asked_out && random[19:16] >= pauses;
    if (asked_in != asked_out && random[19:16] >= pauses) begin
      rdata <= memory[read_from];
      rlast <= at == asked_beats[asked_out];
      at <= at == asked_beats[asked_out] ? 8'd0 : at + 1'b1;
      if (at == asked_beats[asked_out]) asked_out <= asked_out + 1'b1;
    end

    if (!reset && awvalid && awready) begin
      written_at[aw_in] <= awaddr;
      aw_in <= aw_in + 1'b1;
      if (awaddr % BYTES != 0 || awsize != $clog2(BYTES) || awburst != 2'b01 || awlen != 0 || awcache != 4'b0011
          || awprot != 0) fail("a write of another kind");
      if (awaddr / BYTES < RESULTS || awaddr / BYTES >= MEMORY) fail("a write beside the results");
    end
    if (!reset && wvalid && wready) begin
      written[w_in] <= wdata;
      w_in <= w_in + 1'b1;
      if (!wlast || !(&wstrb)) fail("a write that is not whole");
    end
    if (!reset && was_addressing && (!awvalid || awaddr != addressed_before)) fail("a write withdrawn");
    if (!reset && was_writing && (!wvalid || wdata != written_before)) fail("data withdrawn");
    was_addressing <= awvalid && !awready;
    was_writing <= wvalid && !wready;
    addressed_before <= awaddr;
    written_before <= wdata;
    if (write_out != aw_in && write_out != w_in) begin
      memory[write_to] <= written[write_out];
      write_out <= write_out + 1'b1;
    end
    answers <= answers + (write_out != aw_in && write_out != w_in) - (!bvalid && answers != 0 && random[15:12] >= pauses);
    if (reset || !bvalid) bvalid <= answers != 0 && random[15:12] >= pauses;
    else if (bready) bvalid <= 1'b0;
    else fail("an answer that is not taken");

    if (reset) begin
      random <= 32'h9e3779b9;
      {arready, rvalid, rlast, awready, wready, bvalid} <= 6'd0;
      {asked_in, asked_out, aw_in, w_in, write_out} <= 20'd0;
      at <= 8'd0;
      answers <= 5'd0;
      {was_asking, was_addressing, was_writing} <= 3'd0;
    end
  end

  // ------------------------------------------------------------------------------------------- the host
  task automatic set(input [7:0] to, input [31:0] value);
    begin
      s_awaddr = to;
      s_wdata = value;
      s_awvalid = 1'b1;
      #1 while (!s_awready) @(negedge clock) #1;
      @(negedge clock);
      s_awvalid = 1'b0;
      s_wvalid  = 1'b1;  // data after its address; the models of cocotbext-axi send both at once
      #1 while (!s_wready) @(negedge clock) #1;
      @(negedge clock);
      s_wvalid = 1'b0;
      while (!s_bvalid) @(negedge clock);
      if (s_bresp != 0) fail("a register that is not taken");
      @(negedge clock);
    end
  endtask
  task automatic get(input [7:0] from);
    begin
      s_araddr  = from;
      s_arvalid = 1'b1;
      #1 while (!s_arready) @(negedge clock) #1;
      @(negedge clock);
      s_arvalid = 1'b0;
      while (!s_rvalid) @(negedge clock);
      if (s_rresp != 0) fail("a register that is not read");
      stated = s_rdata;
      @(negedge clock);
    end
  endtask

  reg [BUS*IMAGE_BEATS-1:0] image_word;
  reg [LANES*PIXEL-1:0] vector;
  reg [LANES*WIDE-1:0] expected, read;
  reg [BUS*RESULT_BEATS-1:0] result_word;
  reg [BUS-1:0] swapped;
  initial begin
    if (!$value$plusargs("count=%d", count)) count = COUNT;
    if (!$value$plusargs("images=%s", name)) name = "images_in.hex";
    if (!$value$plusargs("limit=%d", limit)) limit = -1;
    if (!$value$plusargs("pauses=%d", pauses)) pauses = 4;
    images_file = $fopen(name, "r");
    if (!$value$plusargs("golden=%s", name)) name = "logits.hex";
    golden_file = name == 0 ? 0 : $fopen(name, "r");
    logits_file = 0;
    if ($value$plusargs("logits=%s", name)) logits_file = $fopen(name, "w");
    if (!$value$plusargs("program=%s", name)) name = "program.bin";
    program_file = $fopen(name, "rb");
    for (beat = 0; beat < PROGRAM_BEATS; beat = beat + 1) begin
      got = $fread(swapped, program_file);
      if (got != BYTES) fail("a program that is too short");
      for (byte_at = 0; byte_at < BYTES; byte_at = byte_at + 1)
        memory[PROGRAM+beat][byte_at*8+:8] = swapped[(BYTES-1-byte_at)*8+:8];
    end
    differing = 0;
    clocks = 64'd0;
    first_batch = 0;
    repeat (4) @(negedge clock);
    reset = 1'b0;
    @(negedge clock);
    get(8'h00);
    if (stated != IDENTIFIER) fail("another accelerator");
    set(8'h0c, 1);
    set(8'h10, PROGRAM * BYTES);
    set(8'h18, PROGRAM_BEATS);
    set(8'h20, IMAGES * BYTES);
    set(8'h28, RESULTS * BYTES);
    while (first_batch * BATCH < count) begin
      left = count - first_batch * BATCH < STARTED * BATCH ? count - first_batch * BATCH : STARTED * BATCH;
      batches = (left + BATCH - 1) / BATCH;
      for (word = 0; word < left * IMAGE_WORDS; word = word + 1) begin
        got = $fscanf(images_file, "%h", vector);
        if (got != 1) fail("no more words of images");
        image_word = vector;
        for (beat = 0; beat < IMAGE_BEATS; beat = beat + 1) begin
          memory[IMAGES+word*IMAGE_BEATS+beat] = image_word[BUS-1:0];
          image_word = image_word >> BUS;
        end
      end
      set(8'h1c, batches);
      set(8'h04, 1);
      waited = 0;
      while (!interrupt && waited != limit) begin
        @(negedge clock);
        waited = waited + 1;
      end
      if (!interrupt) fail("not done");
      get(8'h08);
      if (stated != 32'd2) $display("FAIL: status %h", stated);
      if (stated != 32'd2) fail("a run with an error");
      get(8'h30);
      clocks = clocks + stated;
      for (word = 0; word < left * LOGIT_WORDS; word = word + 1) begin
        for (beat = 0; beat < RESULT_BEATS; beat = beat + 1)
          result_word[beat*BUS+:BUS] = memory[RESULTS+word*RESULT_BEATS+beat];
        read = result_word[LANES*WIDE-1:0];
        if (logits_file != 0) $fwrite(logits_file, "%h\n", read);
        if (golden_file != 0) begin
          got = $fscanf(golden_file, "%h", expected);
          if (got != 1 || read != expected) differing = differing + 1;
        end
      end
      first_batch = first_batch + batches;
    end
    if (!failed)
      $display("%s: %0d images, %0d differing words of logits, %0d clocks", differing == 0 ? "PASS" : "FAIL", count,
               differing, clocks);
    $finish;
  end
endmodule
