// The accelerator with its memories of activations, sized for one network by parameters.vh. While it does not run, the host
// writes images into the narrow or the wide memory and reads the logits from the wide one, a vector at a time. Descriptors,
// weights and parameters come from outside, as rx_accelerator says.
module rx_core #(
    `include "parameters.vh"
) (
    input clock,
    input reset,
    input start,
    output done,
    output waiting,  // for a word of a list that is not ready

    output [1:0] upcoming,
    output descriptor_read,
    output [DESCRIPTOR-1:0] descriptor_address,
    input descriptor_ready,
    input [63:0] descriptor_data,
    output weight_read,
    output [STORE-1:0] weight_address,
    input weight_ready,
    input [LANES*LANES*W-1:0] weight_data,
    output parameter_read,
    output [PARAMETER-1:0] parameter_address,
    input parameter_ready,
    input [LANES*(2*OFFSET+FACTOR+DIVISOR+7*SHIFT)-1:0] parameter_data,

    input host,  // 1: the host has the memories
    input host_write_narrow,
    input host_write_wide,
    input [ADDRESS-1:0] host_address,
    input [LANES*X-1:0] host_narrow,
    input [LANES*WIDE-1:0] host_wide,
    output [LANES*WIDE-1:0] host_read,
    output [7:0] tap_valid,
    output [8*LANES*PATH-1:0] taps
);
  wire [ADDRESS-1:0] read_address, narrow_address, wide_address;
  wire [LANES*X-1:0] narrow_data, narrow_result;
  wire [LANES*WIDE-1:0] wide_data, wide_result;
  wire narrow_write, wide_write;
  // the smaller memory needs fewer bits
  // verilator lint_off UNUSEDSIGNAL
  wire [ADDRESS-1:0] read_at = host ? host_address : read_address;
  wire [ADDRESS-1:0] narrow_at = host ? host_address : narrow_address;
  wire [ADDRESS-1:0] wide_at = host ? host_address : wide_address;
  // verilator lint_on UNUSEDSIGNAL

  rx_accelerator #(
      .LANES(LANES),
      .X(X),
      .W(W),
      .ACC(ACC),
      .PATH(PATH),
      .CAST(CAST),
      .WIDE(WIDE),
      .MUL(MUL),
      .FACTOR(FACTOR),
      .OFFSET(OFFSET),
      .SHIFT(SHIFT),
      .LEFT(LEFT),
      .DIVIDE(DIVIDE),
      .DIVISOR(DIVISOR),
      .ADDRESS(ADDRESS),
      .STORE(STORE),
      .PARAMETER(PARAMETER),
      .DESCRIPTOR(DESCRIPTOR),
      .WINDOW(WINDOW),
      .EXTENT(EXTENT),
      .PLACES(PLACES),
      .PLACE(PLACE)
  ) accelerator (
      .clock(clock),
      .reset(reset),
      .start(start),
      .done(done),
      .waiting(waiting),
      .upcoming(upcoming),
      .descriptor_read(descriptor_read),
      .descriptor_address(descriptor_address),
      .descriptor_ready(descriptor_ready),
      .descriptor_data(descriptor_data),
      .weight_read(weight_read),
      .weight_address(weight_address),
      .weight_ready(weight_ready),
      .weight_data(weight_data),
      .parameter_read(parameter_read),
      .parameter_address(parameter_address),
      .parameter_ready(parameter_ready),
      .parameter_data(parameter_data),
      .read_address(read_address),
      .narrow_data(narrow_data),
      .wide_data(wide_data),
      .narrow_write(narrow_write),
      .narrow_address(narrow_address),
      .narrow_result(narrow_result),
      .wide_write(wide_write),
      .wide_address(wide_address),
      .wide_result(wide_result),
      .tap_valid(tap_valid),
      .taps(taps)
  );

  rx_memory #(
      .BITS(LANES * X),
      .WORDS(NARROWS),
      .ADDRESS($clog2(NARROWS))
  ) narrow (
      .clock(clock),
      .write(host ? host_write_narrow : narrow_write),
      .write_address(narrow_at[$clog2(NARROWS)-1:0]),
      .write_data(host ? host_narrow : narrow_result),
      .read(1'b1),
      .read_address(read_at[$clog2(NARROWS)-1:0]),
      .read_data(narrow_data)
  );
  rx_memory #(
      .BITS(LANES * WIDE),
      .WORDS(WIDES),
      .ADDRESS($clog2(WIDES))
  ) wide (
      .clock(clock),
      .write(host ? host_write_wide : wide_write),
      .write_address(wide_at[$clog2(WIDES)-1:0]),
      .write_data(host ? host_wide : wide_result),
      .read(1'b1),
      .read_address(read_at[$clog2(WIDES)-1:0]),
      .read_data(wide_data)
  );
  assign host_read = wide_data;
endmodule
