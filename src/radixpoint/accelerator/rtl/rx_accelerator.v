// The accelerator: LANES x LANES multipliers and LANES lanes of batch normalization, pooling and casts, between two
// memories of activations: narrow (operands of convolutions) and wide (everything else). Every word is a vector of
// LANES values, channel by channel. Memories answer one clock after the address; that of parameters keeps its answer
// until it is read again. Descriptors, weights and parameters may come from lists instead (see rx_control): a word is
// taken in the clock in which it is read, a parameter word the clock after; a list that is not ready is waited for.
module rx_accelerator #(
    parameter LANES = 4,
    parameter X = 10,
    parameter W = 10,
    parameter ACC = 23,
    parameter PATH = 26,
    parameter CAST = 13,
    parameter WIDE = 13,
    parameter MUL = 13,
    parameter FACTOR = 13,
    parameter OFFSET = 13,
    parameter SHIFT = 6,
    parameter LEFT = 0,
    parameter DIVIDE = 0,
    parameter DIVISOR = 2,
    parameter ADDRESS = 16,
    parameter STORE = 16,
    parameter PARAMETER = 16,
    parameter DESCRIPTOR = 12,
    parameter WINDOW = 8,
    parameter EXTENT = 12,
    parameter PLACES = 1,
    parameter PLACE = 1
) (
    input clock,
    input reset,
    input start,
    output done,
    output waiting,  // for a word of a list that is not ready

    output [1:0] upcoming,  // the list of the next word: 0 descriptors, 1 weights, 2 parameters
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

    output [ADDRESS-1:0] read_address,
    input [LANES*X-1:0] narrow_data,
    input [LANES*WIDE-1:0] wide_data,
    output narrow_write,
    output [ADDRESS-1:0] narrow_address,
    output [LANES*X-1:0] narrow_result,
    output wide_write,
    output [ADDRESS-1:0] wide_address,
    output [LANES*WIDE-1:0] wide_result,

    output [7:0] tap_valid,  // of each stage, for verification
    output [8*LANES*PATH-1:0] taps
);
  `include "rx_fields.vh"
  localparam LANE = 2 * OFFSET + FACTOR + DIVISOR + 7 * SHIFT;

  wire [64*FIELDS-1:0] fields;
  wire buffer_read;
  wire [WINDOW:0] buffer_write_address, buffer_address;  // two halves: one in use, one being filled
  wire [LANES*LANES*W-1:0] weights;
  wire issue, issue_first, issue_last, issue_counts;
  wire [PLACE-1:0] issue_place;
  wire wide_valid, narrow_valid;

  rx_control #(
      .ADDRESS(ADDRESS),
      .STORE(STORE),
      .PARAMETER(PARAMETER),
      .DESCRIPTOR(DESCRIPTOR),
      .WINDOW(WINDOW),
      .EXTENT(EXTENT),
      .PLACES(PLACES),
      .PLACE(PLACE)
  ) control (
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
      .fields(fields),
      .weight_read(weight_read),
      .weight_address(weight_address),
      .weight_ready(weight_ready),
      .buffer_write_address(buffer_write_address),
      .buffer_read(buffer_read),
      .buffer_address(buffer_address),
      .parameter_read(parameter_read),
      .parameter_address(parameter_address),
      .parameter_ready(parameter_ready),
      .issue(issue),
      .issue_first(issue_first),
      .issue_last(issue_last),
      .issue_counts(issue_counts),
      .issue_place(issue_place),
      .read_address(read_address),
      .wide_valid(wide_valid),
      .narrow_valid(narrow_valid),
      .wide_address(wide_address),
      .narrow_address(narrow_address)
  );
  rx_memory #(
      .BITS(LANES * LANES * W),
      .WORDS(2 << WINDOW),
      .ADDRESS(WINDOW + 1)
  ) weight_buffer (
      .clock(clock),
      .write(weight_read),
      .write_address(buffer_write_address),
      .write_data(weight_data),
      .read(buffer_read),
      .read_address(buffer_address),
      .read_data(weights)
  );

  // What was asked for arrives now.
  reg tap, first, last, counts;
  reg [PLACE-1:0] place;
  always @(posedge clock) begin
    place <= issue_place;
    tap <= issue & ~reset;
    first <= issue_first;
    last <= issue_last;
    counts <= issue_counts;
  end

  wire [1:0] kind = fields[64*F_KIND+:2];
  wire [7:1] stages = fields[64*F_STAGES+1+:7];
  wire use_divide = fields[64*F_DIVIDE];
  wire convolution = kind == 2'd0, addition = kind == 2'd1, maximum = kind == 2'd2;

  wire sums_valid;
  wire [LANES*ACC-1:0] sums;
  rx_array #(
      .LANES(LANES),
      .X(X),
      .W(W),
      .ACC(ACC),
      .PLACES(PLACES),
      .PLACE(PLACE)
  ) multipliers (
      .clock(clock),
      .valid(tap & convolution),
      .first(first),
      .last(last),
      .counts(counts),
      .place(place),
      .x(narrow_data),
      .w(weights),
      .sums_valid(sums_valid),
      .sums(sums)
  );
  reg folded_valid;
  always @(posedge clock) folded_valid <= tap & last & ~convolution;

  // The stages that hold a result: head, then one a stage; a division takes its own time between 4 and 5.
  wire [7:0] valid;
  reg [7:1] passed;
  wire [LANES-1:0] divided_valid;
  assign valid = {passed, convolution ? sums_valid : folded_valid};
  always @(posedge clock) begin
    passed[4:1] <= reset ? 4'd0 : valid[3:0];
    passed[5] <= ~reset & (use_divide ? &divided_valid : valid[4]);
    passed[7:6] <= reset ? 2'd0 : valid[6:5];
  end
  assign wide_valid = valid[6];
  assign narrow_valid = valid[7];
  assign wide_write = wide_valid & fields[64*F_WRITES];
  assign narrow_write = narrow_valid & fields[64*F_WRITES+1];
  assign tap_valid = valid & {stages, 1'b1};

  genvar g, s;
  generate
    for (g = 0; g < LANES; g = g + 1) begin : gen_lane
      wire [SHIFT-1:0] align_second, align_first, operand_shift, result_shift, offset_align, centre_align, cast_shift;
      wire [DIVISOR-1:0] divisor;
      wire [FACTOR-1:0] factor;
      wire [OFFSET-1:0] offset, centre;
      wire [PATH-1:0] folded, added, head;
      wire signed [ACC-1:0] sum = sums[g*ACC+:ACC];
      wire [8*PATH-1:0] own_taps;
      assign {align_second, align_first, operand_shift, result_shift, offset_align, centre_align, cast_shift,
              divisor, factor, offset, centre} = parameter_data[g*LANE+:LANE];

      rx_pool #(
          .IN (WIDE),
          .OUT(PATH)
      ) pool (
          .clock(clock),
          .valid(tap & ~convolution),
          .first(first),
          .counts(counts),
          .maximum(maximum),
          .x(wide_data[g*WIDE+:WIDE]),
          .y(folded)
      );
      rx_add #(
          .IN(WIDE),
          .OUT(PATH),
          .SHIFT(SHIFT)
      ) add (
          .clock(clock),
          .valid(tap & ~convolution),
          .first(first),
          .x(wide_data[g*WIDE+:WIDE]),
          .align_first(align_first),
          .align_second(align_second),
          .y(added)
      );
      assign head = convolution ? {{(PATH - ACC + 1) {sum[ACC-1]}}, sum[ACC-2:0]} : addition ? added : folded;

      rx_lane #(
          .PATH(PATH),
          .CAST(CAST),
          .WIDE(WIDE),
          .X(X),
          .MUL(MUL),
          .FACTOR(FACTOR),
          .OFFSET(OFFSET),
          .SHIFT(SHIFT),
          .LEFT(LEFT),
          .DIVIDE(DIVIDE),
          .DIVISOR(DIVISOR)
      ) lane (
          .clock(clock),
          .stages(stages),
          .head(head),
          .divide_valid(valid[4] & use_divide),
          .divided_valid(divided_valid[g]),
          .cast_shift(cast_shift),
          .result_shift(result_shift),
          .operand_shift(operand_shift),
          .centre_align(centre_align),
          .offset_align(offset_align),
          .centre(centre),
          .factor(factor),
          .offset(offset),
          .divisor(divisor),
          .cast_rounding(fields[64*F_CAST_ROUNDING+:3]),
          .cast_wrap(fields[64*F_CAST_WRAP]),
          .cast_low(fields[64*F_CAST_LOW+:CAST]),
          .cast_high(fields[64*F_CAST_HIGH+:CAST]),
          .result_rounding(fields[64*F_RESULT_ROUNDING+:3]),
          .result_wrap(fields[64*F_RESULT_WRAP]),
          .result_low(fields[64*F_RESULT_LOW+:WIDE]),
          .result_high(fields[64*F_RESULT_HIGH+:WIDE]),
          .use_divide(use_divide),
          .clamp_low(fields[64*F_CLAMP_LOW+:WIDE]),
          .clamp_high(fields[64*F_CLAMP_HIGH+:WIDE]),
          .operand_rounding(fields[64*F_OPERAND_ROUNDING+:3]),
          .operand_wrap(fields[64*F_OPERAND_WRAP]),
          .operand_low(fields[64*F_OPERAND_LOW+:X]),
          .operand_high(fields[64*F_OPERAND_HIGH+:X]),
          .wide(wide_result[g*WIDE+:WIDE]),
          .operand(narrow_result[g*X+:X]),
          .taps(own_taps)
      );
      for (s = 0; s < 8; s = s + 1) begin : gen_tap
        assign taps[(s*LANES+g)*PATH+:PATH] = own_taps[s*PATH+:PATH];
      end
    end
  endgenerate
endmodule
