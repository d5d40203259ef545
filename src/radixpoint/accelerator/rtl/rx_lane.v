// What happens to one channel's value after convolution, pooling or addition, a stage a clock:
//   head -> cast -> centre -> factor -> offset -> cast or division -> clamp -> (wide result) -> operand cast (narrow)
// Each stage passes its value on unchanged where its bit of stages is 0. Results of all stages go to taps, stage 0
// lowest, for verification.
module rx_lane #(
    parameter PATH = 26,
    parameter CAST = 13,  // bits of the first cast's result
    parameter WIDE = 13,  // bits of the wide memory
    parameter X = 10,     // bits of an operand
    parameter MUL = 13,
    parameter FACTOR = 13,
    parameter OFFSET = 13,
    parameter SHIFT = 6,
    parameter LEFT = 0,
    parameter DIVIDE = 0,  // bits of the divider; 0 leaves it out
    parameter DIVISOR = 2
) (
    input clock,
    input [7:1] stages,
    input signed [PATH-1:0] head,
    input divide_valid,
    output divided_valid,

    input signed [SHIFT-1:0] cast_shift,
    input signed [SHIFT-1:0] result_shift,
    input signed [SHIFT-1:0] operand_shift,
    input signed [SHIFT-1:0] centre_align,
    input signed [SHIFT-1:0] offset_align,
    input signed [OFFSET-1:0] centre,
    input signed [FACTOR-1:0] factor,
    input signed [OFFSET-1:0] offset,
    input [DIVISOR-1:0] divisor,

    input [2:0] cast_rounding,
    input cast_wrap,
    input signed [CAST-1:0] cast_low,
    input signed [CAST-1:0] cast_high,
    input [2:0] result_rounding,
    input result_wrap,
    input signed [WIDE-1:0] result_low,
    input signed [WIDE-1:0] result_high,
    input use_divide,
    input signed [WIDE-1:0] clamp_low,
    input signed [WIDE-1:0] clamp_high,
    input [2:0] operand_rounding,
    input operand_wrap,
    input signed [X-1:0] operand_low,
    input signed [X-1:0] operand_high,

    output signed [WIDE-1:0] wide,
    output signed [X-1:0] operand,
    output [8*PATH-1:0] taps
);
  wire signed [CAST-1:0] first_cast;
  reg signed [PATH-1:0] cast;
  wire signed [PATH-1:0] centred, scaled, normalized;
  wire signed [WIDE-1:0] second_cast, divided;
  reg signed [PATH-1:0] result, clamped;
  wire signed [X-1:0] third_cast;
  reg signed [PATH-1:0] narrow;

  rx_cast #(
      .IN(PATH),
      .OUT(CAST),
      .SHIFT(SHIFT),
      .LEFT(LEFT)
  ) cast_unit (
      .x(head),
      .shift(cast_shift),
      .rounding(cast_rounding),
      .low(cast_low),
      .high(cast_high),
      .wrap(cast_wrap),
      .draw(64'd0),
      .y(first_cast)
  );
  rx_batch_norm #(
      .PATH(PATH),
      .MUL(MUL),
      .FACTOR(FACTOR),
      .OFFSET(OFFSET),
      .SHIFT(SHIFT)
  ) batch_norm (
      .clock(clock),
      .use_centre(stages[2]),
      .use_factor(stages[3]),
      .use_offset(stages[4]),
      .x(cast),
      .centre(centre),
      .centre_align(centre_align),
      .factor(factor),
      .offset(offset),
      .offset_align(offset_align),
      .centred(centred),
      .scaled(scaled),
      .y(normalized)
  );
  rx_cast #(
      .IN(PATH),
      .OUT(WIDE),
      .SHIFT(SHIFT),
      .LEFT(LEFT)
  ) result_unit (
      .x(normalized),
      .shift(result_shift),
      .rounding(result_rounding),
      .low(result_low),
      .high(result_high),
      .wrap(result_wrap),
      .draw(64'd0),
      .y(second_cast)
  );
  generate
    if (DIVIDE != 0) begin : gen_divide
      rx_divide #(
          .IN(PATH),
          .OUT(WIDE),
          .DIVISOR(DIVISOR),
          .SHIFT(SHIFT),
          .BITS(DIVIDE)
      ) unit (
          .clock(clock),
          .valid(divide_valid),
          .x(normalized),
          .divisor(divisor),
          .shift(result_shift),
          .rounding(result_rounding),
          .low(result_low),
          .high(result_high),
          .wrap(result_wrap),
          .y_valid(divided_valid),
          .y(divided)
      );
    end else begin : gen_no_divide
      wire unused = &{1'b0, divisor, divide_valid};
      assign divided_valid = 1'b0;
      assign divided = {WIDE{1'b0}};
    end
  endgenerate
  rx_cast #(
      .IN(WIDE),
      .OUT(X),
      .SHIFT(SHIFT),
      .LEFT(LEFT)
  ) operand_unit (
      .x(clamped[WIDE-1:0]),
      .shift(operand_shift),
      .rounding(operand_rounding),
      .low(operand_low),
      .high(operand_high),
      .wrap(operand_wrap),
      .draw(64'd0),
      .y(third_cast)
  );

  wire signed [WIDE-1:0] second = use_divide ? divided : second_cast;
  wire signed [WIDE-1:0] low_bits = result[WIDE-1:0];
  wire signed [WIDE-1:0] bounded = low_bits < clamp_low ? clamp_low : low_bits > clamp_high ? clamp_high : low_bits;

  always @(posedge clock) begin
    cast <= stages[1] ? {{(PATH - CAST + 1) {first_cast[CAST-1]}}, first_cast[CAST-2:0]} : head;
    result <= stages[5] ? {{(PATH - WIDE + 1) {second[WIDE-1]}}, second[WIDE-2:0]} : normalized;
    clamped <= stages[6] ? {{(PATH - WIDE + 1) {bounded[WIDE-1]}}, bounded[WIDE-2:0]} : result;
    narrow <= stages[7] ? {{(PATH - X + 1) {third_cast[X-1]}}, third_cast[X-2:0]} : clamped;
  end

  assign wide = clamped[WIDE-1:0];
  assign operand = narrow[X-1:0];
  assign taps = {narrow, clamped, result, normalized, scaled, centred, cast, head};
endmodule
