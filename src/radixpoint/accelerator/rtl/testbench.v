// Runs the images of a file, writes logits and, if asked to, what every stage computes; compares logits with golden ones.
//   +images=FILE  vectors of an image as hexadecimal words, one a line (default images_in.hex)
//   +count=N      how many images (default COUNT)
//   +golden=FILE  logits to compare with (default logits.hex); an empty name compares nothing
//   +logits=FILE  where to write logits, as hexadecimal words
//   +limit=N      clocks after which a batch is given up (default: never)
//   +trace=FILE   where to write taps, see trace.v
`timescale 1ns / 1ps
module testbench #(
    `include "parameters.vh"
);
  reg clock, reset = 1'b1, start = 1'b0, host = 1'b1;
  reg write_narrow = 1'b0, write_wide = 1'b0;
  reg [ADDRESS-1:0] address = {ADDRESS{1'b0}};
  reg [LANES*PIXEL-1:0] vector;
  reg [LANES*WIDE-1:0] expected;
  wire [LANES*X-1:0] narrow;
  wire [LANES*WIDE-1:0] wide, read;
  wire done;
  wire [DESCRIPTOR-1:0] descriptor;
  wire [7:0] tap_valid;
  wire [8*LANES*PATH-1:0] taps;

  initial begin
    clock = 1'b0;
    forever #5 clock = ~clock;
  end

  genvar g;
  generate
    for (g = 0; g < LANES; g = g + 1) begin : gen_pixel
      // verilator lint_off UNUSEDSIGNAL
      wire [WIDE+X+PIXEL-1:0] value = {{(WIDE + X) {vector[g*PIXEL+PIXEL-1]}}, vector[g*PIXEL+:PIXEL]};
      // verilator lint_on UNUSEDSIGNAL
      assign narrow[g*X+:X] = value[X-1:0];
      assign wide[g*WIDE+:WIDE] = value[WIDE-1:0];
    end
  endgenerate

  rx_system system (
      .clock(clock),
      .reset(reset),
      .start(start),
      .done(done),
      .host(host),
      .host_write_narrow(write_narrow),
      .host_write_wide(write_wide),
      .host_address(address),
      .host_narrow(narrow),
      .host_wide(wide),
      .host_read(read),
      .tap_descriptor(descriptor),
      .tap_valid(tap_valid),
      .taps(taps)
  );

  integer images_file, golden_file, logits_file, batch;
  integer count, left, word, got, differing, waited, limit;
  reg [63:0] clocks;
  reg [8*256-1:0] name;

  initial clocks = 64'd0;
  always @(posedge clock) if (!host) clocks <= clocks + 1;

  trace #(
      .LANES(LANES),
      .PATH(PATH),
      .DESCRIPTOR(DESCRIPTOR)
  ) traced (
      .clock(clock),
      .runs(!host),
      .batch(batch),
      .descriptor(descriptor),
      .tap_valid(tap_valid),
      .taps(taps)
  );

  initial begin
    if (!$value$plusargs("count=%d", count)) count = COUNT;
    if (!$value$plusargs("images=%s", name)) name = "images_in.hex";
    if (!$value$plusargs("limit=%d", limit)) limit = -1;
    images_file = $fopen(name, "r");
    if (!$value$plusargs("golden=%s", name)) name = "logits.hex";
    golden_file = name == 0 ? 0 : $fopen(name, "r");
    logits_file = 0;
    if ($value$plusargs("logits=%s", name)) logits_file = $fopen(name, "w");
    differing = 0;
    repeat (4) @(negedge clock);
    reset = 1'b0;
    for (batch = 0; batch * BATCH < count; batch = batch + 1) begin
      left = count - batch * BATCH < BATCH ? count - batch * BATCH : BATCH;
      for (word = 0; word < left * IMAGE_WORDS; word = word + 1) begin
        got = $fscanf(images_file, "%h", vector);
        if (got != 1) begin
          $display("FAIL: no word %0d of batch %0d", word, batch);
          $finish;
          @(negedge clock);  // never: what follows in the same instant would still run
        end
        address = IMAGE_NARROW[ADDRESS-1:0] + word[ADDRESS-1:0];
        write_narrow = IMAGE_NARROW >= 0;
        @(negedge clock);
        write_narrow = 1'b0;
        address = IMAGE_WIDE[ADDRESS-1:0] + word[ADDRESS-1:0];
        write_wide = IMAGE_WIDE >= 0;
        @(negedge clock);
        write_wide = 1'b0;
      end
      waited = 0;
      host = 1'b0;
      start = 1'b1;
      @(negedge clock);
      start = 1'b0;
      while (!done && waited != limit) begin
        @(negedge clock);
        waited = waited + 1;
      end
      if (!done) begin
        $display("FAIL: batch %0d not done after %0d clocks", batch, waited);
        $finish;
        @(negedge clock);
      end
      host = 1'b1;
      for (word = 0; word < left * LOGIT_WORDS; word = word + 1) begin
        address = LOGIT_ADDRESS[ADDRESS-1:0] + word[ADDRESS-1:0];
        @(negedge clock);
        if (logits_file != 0) $fwrite(logits_file, "%h\n", read);
        if (golden_file != 0) begin
          got = $fscanf(golden_file, "%h", expected);
          if (got != 1 || read != expected) differing = differing + 1;
        end
      end
    end
    $display("%s: %0d images, %0d differing words of logits, %0d clocks", differing == 0 ? "PASS" : "FAIL", count,
             differing, clocks);
    $finish;
  end
endmodule
