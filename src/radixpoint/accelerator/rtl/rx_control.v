// Executes a list of descriptors: for each, for each tile of output channels, waits for weights and parameters, then
// walks over the places of the result and, for each, over its window. Meanwhile the next tile's weights are loaded into
// the other half of the buffer. Addresses are only ever added to.
module rx_control #(
    parameter ADDRESS = 16,        // bits of the addresses of activations
    parameter STORE = 24,          // of weights
    parameter PARAMETER = 16,      // of parameters
    parameter DESCRIPTOR = 12,     // of descriptor words
    parameter WINDOW = 10,         // bits of the index of a word in the weight buffer
    parameter EXTENT = 12          // bits of rows, columns and counts, signed
) (
    input clock,
    input reset,
    input start,
    output reg done,

    output reg [DESCRIPTOR-1:0] descriptor_address,
    input [63:0] descriptor_data,
    output reg [64*50-1:0] fields,

    output reg [STORE-1:0] weight_address,
    output buffer_write,
    output [WINDOW:0] buffer_write_address,
    output [WINDOW:0] buffer_address,

    output reg [PARAMETER-1:0] parameter_address,

    output issue,
    output issue_first,
    output issue_last,
    output issue_counts,
    output [ADDRESS-1:0] read_address,

    input wide_valid,
    input narrow_valid,
    output reg [ADDRESS-1:0] wide_address,
    output reg [ADDRESS-1:0] narrow_address
);
  `include "rx_fields.vh"

  localparam IDLE = 4'd0, FETCH = 4'd1, TILE = 4'd2, LOAD = 4'd3, SETTLE = 4'd4, RUN = 4'd5, WAIT = 4'd6,
      DRAIN = 4'd7, NEXT = 4'd8;
  localparam DEPTH = 12;  // clocks from the last read of a tile until its last result is written, or more

  reg [3:0] state;
  reg [7:0] count;
  reg [5:0] fetched;

  wire convolution = fields[64*F_KIND+:2] == 2'd0;
  wire signed [EXTENT-1:0] rows = fields[64*F_ROWS+:EXTENT], columns = fields[64*F_COLUMNS+:EXTENT];
  wire signed [EXTENT-1:0] kernel_rows = fields[64*F_KERNEL_ROWS+:EXTENT];
  wire signed [EXTENT-1:0] kernel_columns = fields[64*F_KERNEL_COLUMNS+:EXTENT];
  wire signed [EXTENT-1:0] blocks = fields[64*F_BLOCKS+:EXTENT], tiles = fields[64*F_TILES+:EXTENT];
  wire signed [EXTENT-1:0] height = fields[64*F_HEIGHT+:EXTENT], width = fields[64*F_WIDTH+:EXTENT];
  wire signed [EXTENT-1:0] stride_y = fields[64*F_STRIDE_Y+:EXTENT], stride_x = fields[64*F_STRIDE_X+:EXTENT];
  wire signed [EXTENT-1:0] dilation_y = fields[64*F_DILATION_Y+:EXTENT];
  wire signed [EXTENT-1:0] dilation_x = fields[64*F_DILATION_X+:EXTENT];
  wire signed [EXTENT-1:0] first_y = fields[64*F_FIRST_Y+:EXTENT], first_x = fields[64*F_FIRST_X+:EXTENT];
  wire [7:0] gap = fields[64*F_GAP+:8];
  wire [WINDOW:0] window = fields[64*F_WINDOW+:WINDOW+1];

  reg signed [EXTENT-1:0] tile, row, column, kernel_row, kernel_column, block;
  reg signed [EXTENT-1:0] row_y, column_x, y, x;  // where the window and where the tap is
  reg [ADDRESS-1:0] at_tile, at_row, at_column, at_kernel_row, at_kernel_column, at;
  reg half, loading_half;  // of the buffer: in use, and being filled
  reg loading;
  reg [WINDOW:0] loaded;  // words of weights asked for
  reg [WINDOW-1:0] word;  // of the weight buffer; means nothing where there are no weights
  reg fresh;  // the next tap is the first of its window
  reg [PARAMETER-1:0] parameter_tile;
  reg [ADDRESS-1:0] wide_tile, narrow_tile;

  wire last_block = block == blocks - 1;
  wire last_kernel_column = last_block && kernel_column == kernel_columns - 1;
  wire last_tap = last_kernel_column && kernel_row == kernel_rows - 1;
  wire last_column = column == columns - 1;
  wire last_place = last_column && row == rows - 1;
  wire [WINDOW-1:0] word_before = loaded[WINDOW-1:0] - 1'b1;

  assign issue = state == RUN;
  assign issue_first = fresh;
  assign issue_last = last_tap;
  assign issue_counts = y >= 0 && y < height && x >= 0 && x < width;
  assign read_address = at;
  assign buffer_address = {half, word};
  assign buffer_write = loading && loaded != 0;
  assign buffer_write_address = {loading_half, word_before};

  always @(posedge clock) begin
    if (wide_valid) wide_address <= wide_address + fields[64*F_WIDE_PLACE+:ADDRESS];
    if (narrow_valid) narrow_address <= narrow_address + fields[64*F_NARROW_PLACE+:ADDRESS];

    if (loading) begin  // a word a clock, written to the buffer a clock later
      loaded <= loaded + 1'b1;
      if (loaded < window) weight_address <= weight_address + 1'b1;
      if (loaded == window) loading <= 1'b0;
    end

    if (reset) begin
      state <= IDLE;
      done <= 1'b0;
      half <= 1'b0;
      loading <= 1'b0;
    end else
      case (state)
        IDLE:
        if (start) begin
          state <= FETCH;
          done <= 1'b0;
          descriptor_address <= {DESCRIPTOR{1'b0}};
          fetched <= 6'd0;
        end
        FETCH: begin  // words shift in from above: after the last one, the first is at the bottom
          descriptor_address <= descriptor_address + 1'b1;
          fetched <= fetched + 1'b1;
          if (fetched != 0) fields <= {descriptor_data, fields[64*FIELDS-1:64]};
          if (fetched == FIELDS[5:0]) begin
            state <= TILE;
            descriptor_address <= descriptor_address;
            tile <= {EXTENT{1'b0}};
          end
        end
        TILE: begin
          state <= convolution ? LOAD : SETTLE;
          if (convolution && tile == 0) begin
            loading <= 1'b1;
            loading_half <= half;
            loaded <= {(WINDOW + 1) {1'b0}};
          end
          count <= 8'd0;
          row <= {EXTENT{1'b0}};
          column <= {EXTENT{1'b0}};
          row_y <= first_y;
          column_x <= first_x;
          if (tile == 0) begin
            weight_address <= fields[64*F_WEIGHTS+:STORE];
            parameter_address <= fields[64*F_PARAMETERS+:PARAMETER];
            parameter_tile <= fields[64*F_PARAMETERS+:PARAMETER];
            at_tile <= fields[64*F_READ+:ADDRESS];
            at_row <= fields[64*F_READ+:ADDRESS];
            at_column <= fields[64*F_READ+:ADDRESS];
            wide_tile <= fields[64*F_WIDE+:ADDRESS];
            wide_address <= fields[64*F_WIDE+:ADDRESS];
            narrow_tile <= fields[64*F_NARROW+:ADDRESS];
            narrow_address <= fields[64*F_NARROW+:ADDRESS];
          end else begin
            parameter_address <= parameter_tile + fields[64*F_PARAMETERS_TILE+:PARAMETER];
            parameter_tile <= parameter_tile + fields[64*F_PARAMETERS_TILE+:PARAMETER];
            at_tile <= at_tile + fields[64*F_READ_TILE+:ADDRESS];
            at_row <= at_tile + fields[64*F_READ_TILE+:ADDRESS];
            at_column <= at_tile + fields[64*F_READ_TILE+:ADDRESS];
            wide_tile <= wide_tile + 1'b1;
            wide_address <= wide_tile + 1'b1;
            narrow_tile <= narrow_tile + 1'b1;
            narrow_address <= narrow_tile + 1'b1;
          end
        end
        LOAD:
        if (!loading || loaded == window) begin
          state <= SETTLE;
          if (tile != tiles - 1) begin
            loading <= 1'b1;
            loading_half <= ~half;
            loaded <= {(WINDOW + 1) {1'b0}};
          end
        end
        SETTLE: begin  // until the memory shows the parameters
          count <= count + 1'b1;
          kernel_row <= {EXTENT{1'b0}};
          kernel_column <= {EXTENT{1'b0}};
          block <= {EXTENT{1'b0}};
          word <= {WINDOW{1'b0}};
          fresh <= 1'b1;
          y <= row_y;
          x <= column_x;
          at <= at_column;
          at_kernel_row <= at_column;
          at_kernel_column <= at_column;
          if (count == 8'd1) state <= RUN;
        end
        RUN: begin  // a tap a clock
          word <= last_tap ? {WINDOW{1'b0}} : word + 1'b1;
          fresh <= last_tap;
          block <= last_block ? {EXTENT{1'b0}} : block + 1'b1;
          if (!last_block) at <= at + fields[64*F_READ_BLOCK+:ADDRESS];
          else if (!last_kernel_column) begin
            kernel_column <= kernel_column + 1'b1;
            x <= x + dilation_x;
            at <= at_kernel_column + fields[64*F_READ_KERNEL_COLUMN+:ADDRESS];
            at_kernel_column <= at_kernel_column + fields[64*F_READ_KERNEL_COLUMN+:ADDRESS];
          end else if (!last_tap) begin
            kernel_column <= {EXTENT{1'b0}};
            kernel_row <= kernel_row + 1'b1;
            x <= column_x;
            y <= y + dilation_y;
            at <= at_kernel_row + fields[64*F_READ_KERNEL_ROW+:ADDRESS];
            at_kernel_row <= at_kernel_row + fields[64*F_READ_KERNEL_ROW+:ADDRESS];
            at_kernel_column <= at_kernel_row + fields[64*F_READ_KERNEL_ROW+:ADDRESS];
          end else begin
            kernel_row <= {EXTENT{1'b0}};
            kernel_column <= {EXTENT{1'b0}};
            count <= 8'd0;
            if (gap != 0) state <= WAIT;
            else if (last_place) state <= DRAIN;
            if (!last_column) begin
              column <= column + 1'b1;
              column_x <= column_x + stride_x;
              x <= column_x + stride_x;
              y <= row_y;
              at <= at_column + fields[64*F_READ_COLUMN+:ADDRESS];
              at_column <= at_column + fields[64*F_READ_COLUMN+:ADDRESS];
              at_kernel_row <= at_column + fields[64*F_READ_COLUMN+:ADDRESS];
              at_kernel_column <= at_column + fields[64*F_READ_COLUMN+:ADDRESS];
            end else begin
              column <= {EXTENT{1'b0}};
              row <= row + 1'b1;
              row_y <= row_y + stride_y;
              column_x <= first_x;
              x <= first_x;
              y <= row_y + stride_y;
              at <= at_row + fields[64*F_READ_ROW+:ADDRESS];
              at_row <= at_row + fields[64*F_READ_ROW+:ADDRESS];
              at_column <= at_row + fields[64*F_READ_ROW+:ADDRESS];
              at_kernel_row <= at_row + fields[64*F_READ_ROW+:ADDRESS];
              at_kernel_column <= at_row + fields[64*F_READ_ROW+:ADDRESS];
            end
          end
        end
        WAIT: begin
          count <= count + 1'b1;
          if (count == gap) begin
            count <= 8'd0;
            state <= row == rows ? DRAIN : SETTLE;
            parameter_address <= parameter_address + fields[64*F_PARAMETERS_PLACE+:PARAMETER];
          end
        end
        DRAIN: begin
          count <= count + 1'b1;
          if (count == DEPTH) state <= NEXT;
        end
        NEXT: begin
          tile <= tile + 1'b1;
          half <= ~half;
          fetched <= 6'd0;
          if (tile != tiles - 1) state <= TILE;
          else if (fields[64*F_FINAL]) begin
            state <= IDLE;
            done  <= 1'b1;
          end else state <= FETCH;
        end
        default: state <= IDLE;
      endcase
  end
endmodule
