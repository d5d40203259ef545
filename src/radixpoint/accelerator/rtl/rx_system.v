// The accelerator with all its memories, sized for one network by parameters.vh. While it does not run, the host writes an
// image into the narrow or the wide memory and reads the logits from the wide one, a vector at a time.
module rx_system #(
    `include "parameters.vh"
) (
    input clock,
    input reset,
    input start,
    output done,
    input host,  // 1: the host has the memories
    input host_write_narrow,
    input host_write_wide,
    input [ADDRESS-1:0] host_address,
    input [LANES*X-1:0] host_narrow,
    input [LANES*WIDE-1:0] host_wide,
    output [LANES*WIDE-1:0] host_read,
    output [DESCRIPTOR-1:0] tap_descriptor,  // address behind the descriptor that runs
    output [7:0] tap_valid,
    output [8*LANES*PATH-1:0] taps
);
  localparam LANE = 2 * OFFSET + FACTOR + DIVISOR + 7 * SHIFT;

  wire parameter_read;
  wire [DESCRIPTOR-1:0] descriptor_address;
  wire [63:0] descriptor_data;
  wire [STORE-1:0] weight_address;
  wire [LANES*LANES*W-1:0] weight_data;
  wire [PARAMETER-1:0] parameter_address;
  wire [LANES*LANE-1:0] parameter_data;

  rx_core core (
      .clock(clock),
      .reset(reset),
      .start(start),
      .done(done),
      // memories are always ready
      // verilator lint_off PINCONNECTEMPTY
      .waiting(),
      .upcoming(),
      .descriptor_read(),
      .weight_read(),
      // verilator lint_on PINCONNECTEMPTY
      .descriptor_address(descriptor_address),
      .descriptor_ready(1'b1),
      .descriptor_data(descriptor_data),
      .weight_address(weight_address),
      .weight_ready(1'b1),
      .weight_data(weight_data),
      .parameter_read(parameter_read),
      .parameter_address(parameter_address),
      .parameter_ready(1'b1),
      .parameter_data(parameter_data),
      .host(host),
      .host_write_narrow(host_write_narrow),
      .host_write_wide(host_write_wide),
      .host_address(host_address),
      .host_narrow(host_narrow),
      .host_wide(host_wide),
      .host_read(host_read),
      .tap_valid(tap_valid),
      .taps(taps)
  );

  rx_memory #(
      .BITS(64),
      .WORDS(DESCRIPTORS),
      .ADDRESS(DESCRIPTOR),
      .CONTENT("descriptors.hex")
  ) descriptors (
      .clock(clock),
      .write(1'b0),
      .write_address({DESCRIPTOR{1'b0}}),
      .write_data(64'd0),
      .read(1'b1),
      .read_address(descriptor_address),
      .read_data(descriptor_data)
  );
  rx_memory #(
      .BITS(LANES * LANES * W),
      .WORDS(STORES),
      .ADDRESS(STORE),
      .CONTENT("weights.hex")
  ) weights (
      .clock(clock),
      .write(1'b0),
      .write_address({STORE{1'b0}}),
      // verilator lint_off WIDTHCONCAT
      .write_data({LANES * LANES * W{1'b0}}),
      // verilator lint_on WIDTHCONCAT
      .read(1'b1),
      .read_address(weight_address),
      .read_data(weight_data)
  );
  rx_memory #(
      .BITS(LANES * LANE),
      .WORDS(PARAMETERS),
      .ADDRESS(PARAMETER),
      .CONTENT("parameters.hex")
  ) parameters (
      .clock(clock),
      .write(1'b0),
      .write_address({PARAMETER{1'b0}}),
      .write_data({LANES * LANE{1'b0}}),
      .read(parameter_read),
      .read_address(parameter_address),
      .read_data(parameter_data)
  );
  assign tap_descriptor = descriptor_address;
endmodule
