// Executes a list of descriptors: for each, for each tile of output channels, waits for weights and parameters, then
// walks over the places of the result and, for each, over its window. Meanwhile the next tile's weights are loaded into
// the other half of the buffer. Addresses are only ever added to.
//
// A convolution takes its places in groups of up to PLACES: each word of weights serves all places of a group, one a
// clock, before the next is read.
//
// Descriptors, weights and parameters are lists, each read once from its beginning to its end, in an order that does not
// depend on time; upcoming says of which list the next word is.
module rx_control #(
    parameter ADDRESS = 16,        // bits of the addresses of activations
    parameter STORE = 24,          // of weights
    parameter PARAMETER = 16,      // of parameters
    parameter DESCRIPTOR = 12,     // of descriptor words
    parameter WINDOW = 10,         // bits of the index of a word in the weight buffer
    parameter EXTENT = 12,         // bits of rows, columns and counts, signed
    parameter PLACES = 1,          // that a word of weights serves
    parameter PLACE = 1            // bits of the index of one
) (
    input clock,
    input reset,
    input start,
    output reg done,
    output waiting,  // for a word of a list that is not ready

    output reg [1:0] upcoming,  // 0 descriptors, 1 weights, 2 parameters
    output descriptor_read,
    output [DESCRIPTOR-1:0] descriptor_address,
    input descriptor_ready,
    input [63:0] descriptor_data,
    output reg [64*49-1:0] fields,

    output weight_read,  // and written to the buffer
    output [STORE-1:0] weight_address,
    input weight_ready,
    output [WINDOW:0] buffer_write_address,
    output buffer_read,
    output [WINDOW:0] buffer_address,

    output parameter_read,
    output reg [PARAMETER-1:0] parameter_address,
    input parameter_ready,

    output issue,
    output issue_first,
    output issue_last,
    output issue_counts,
    output [PLACE-1:0] issue_place,
    output [ADDRESS-1:0] read_address,

    input wide_valid,
    input narrow_valid,
    output reg [ADDRESS-1:0] wide_address,
    output reg [ADDRESS-1:0] narrow_address
);
  `include "rx_fields.vh"

  localparam IDLE = 4'd0, FETCH = 4'd1, TILE = 4'd2, LOAD = 4'd3, TAKE = 4'd4, SETTLE = 4'd5, RUN = 4'd6, WAIT = 4'd7,
      DRAIN = 4'd8, NEXT = 4'd9;
  localparam DEPTH = 12;  // clocks from the last read of a tile until its last result is written, or more
  localparam DESCRIPTORS = 2'd0, WEIGHTS = 2'd1, PARAMETERS = 2'd2;

  reg [3:0] state;
  reg [7:0] count;
  reg [5:0] fetched;

  wire convolution = fields[64*F_KIND+:2] == 2'd0;
  wire placed = fields[64*F_PLACED];
  wire signed [EXTENT-1:0] images = fields[64*F_IMAGES+:EXTENT];
  wire signed [EXTENT-1:0] rows = fields[64*F_ROWS+:EXTENT], columns = fields[64*F_COLUMNS+:EXTENT];
  wire signed [EXTENT-1:0] kernel_rows = fields[64*F_KERNEL_ROWS+:EXTENT];
  wire signed [EXTENT-1:0] kernel_columns = fields[64*F_KERNEL_COLUMNS+:EXTENT];
  wire signed [EXTENT-1:0] blocks = fields[64*F_BLOCKS+:EXTENT], tiles = fields[64*F_TILES+:EXTENT];
  wire signed [EXTENT-1:0] height = fields[64*F_HEIGHT+:EXTENT], width = fields[64*F_WIDTH+:EXTENT];
  wire signed [EXTENT-1:0] stride_y = fields[64*F_STRIDE_Y+:EXTENT], stride_x = fields[64*F_STRIDE_X+:EXTENT];
  wire signed [EXTENT-1:0] dilation_y = fields[64*F_DILATION_Y+:EXTENT];
  wire signed [EXTENT-1:0] dilation_x = fields[64*F_DILATION_X+:EXTENT];
  wire signed [EXTENT-1:0] first_y = fields[64*F_FIRST_Y+:EXTENT], first_x = fields[64*F_FIRST_X+:EXTENT];
  wire [ADDRESS-1:0] read_image = fields[64*F_READ_IMAGE+:ADDRESS], read_row = fields[64*F_READ_ROW+:ADDRESS];
  wire [ADDRESS-1:0] read_column = fields[64*F_READ_COLUMN+:ADDRESS], read_block = fields[64*F_READ_BLOCK+:ADDRESS];
  wire [ADDRESS-1:0] read_kernel_row = fields[64*F_READ_KERNEL_ROW+:ADDRESS];
  wire [ADDRESS-1:0] read_kernel_column = fields[64*F_READ_KERNEL_COLUMN+:ADDRESS];
  wire [7:0] gap = fields[64*F_GAP+:8];
  wire [WINDOW:0] window = fields[64*F_WINDOW+:WINDOW+1];

  reg signed [EXTENT-1:0] tile;
  reg [ADDRESS-1:0] at_tile, wide_tile, narrow_tile;
  wire last_tile = tile == tiles - 1;
  wire [ADDRESS-1:0] tile_at = tile == 0 ? fields[64*F_READ+:ADDRESS] : at_tile + fields[64*F_READ_TILE+:ADDRESS];
  wire [ADDRESS-1:0] tile_wide = tile == 0 ? fields[64*F_WIDE+:ADDRESS] : wide_tile + 1'b1;
  wire [ADDRESS-1:0] tile_narrow = tile == 0 ? fields[64*F_NARROW+:ADDRESS] : narrow_tile + 1'b1;

  // The lists.
  reg [DESCRIPTOR-1:0] descriptor;
  reg [STORE-1:0] weight;
  reg loading, loading_half;  // the half of the buffer that is being filled; half is the one in use
  reg half, fresh_parameters;
  reg [WINDOW:0] loaded;
  wire last_load = weight_read && loaded + 1'b1 == window;
  wire taken = !fresh_parameters || parameter_ready;

  assign waiting = (state == FETCH && !descriptor_ready) || (loading && !weight_ready) || (state == TAKE && !taken);
  assign descriptor_read = state == FETCH && descriptor_ready;
  assign weight_read = loading && weight_ready;
  assign parameter_read = state == TAKE && fresh_parameters && parameter_ready;
  assign descriptor_address = descriptor + {{(DESCRIPTOR - 1) {1'b0}}, descriptor_read};
  assign weight_address = weight + {{(STORE - 1) {1'b0}}, weight_read};
  assign buffer_write_address = {loading_half, loaded[WINDOW-1:0]};

  // The place that is next: where its window begins in memory, and its row and column.
  reg signed [EXTENT-1:0] image, row, column, place_y, place_x;
  reg [ADDRESS-1:0] at_image, at_row, at_place;
  wire last_column = column == columns - 1;
  wire last_row = row == rows - 1;
  wire last_place = last_column && last_row && image == images - 1;
  reg ended;  // no place is left

  // The places of the group, kept while the first tap visits them, and the tap: what it adds to them.
  reg [PLACE-1:0] place, group_end;
  reg [ADDRESS-1:0] kept_at[0:PLACES-1];
  reg signed [EXTENT-1:0] kept_y[0:PLACES-1], kept_x[0:PLACES-1];
  reg signed [EXTENT-1:0] kernel_row, kernel_column, block, tap_y, tap_x;
  reg [ADDRESS-1:0] tap_at, tap_row, tap_column;
  reg [WINDOW-1:0] word;  // of the weight buffer; means nothing where there are no weights
  reg fresh;  // the tap is the first of its window
  wire [PLACE-1:0] most = convolution && gap == 0 ? PLACES[PLACE-1:0] - 1'b1 : {PLACE{1'b0}};
  wire last_of_group = fresh ? place == most || last_place : place == group_end;
  wire last_block = block == blocks - 1;
  wire last_kernel_column = last_block && kernel_column == kernel_columns - 1;
  wire last_tap = last_kernel_column && kernel_row == kernel_rows - 1;
  wire [ADDRESS-1:0] at = fresh ? at_place : kept_at[place];
  wire signed [EXTENT-1:0] y = (fresh ? place_y : kept_y[place]) + tap_y;
  wire signed [EXTENT-1:0] x = (fresh ? place_x : kept_x[place]) + tap_x;

  assign issue = state == RUN;
  assign issue_first = fresh;
  assign issue_last = last_tap;
  assign issue_counts = y >= 0 && y < height && x >= 0 && x < width;
  assign issue_place = place;
  assign read_address = at + tap_at;
  assign buffer_read = issue && convolution && place == 0;
  assign buffer_address = {half, word};

  always @(posedge clock) begin
    if (wide_valid) wide_address <= wide_address + fields[64*F_WIDE_PLACE+:ADDRESS];
    if (narrow_valid) narrow_address <= narrow_address + fields[64*F_NARROW_PLACE+:ADDRESS];
    if (descriptor_read) fields <= {descriptor_data, fields[64*FIELDS-1:64]};  // the first ends at the bottom

    descriptor <= descriptor_address;
    weight <= weight_address;
    if (weight_read) begin
      loaded <= loaded + 1'b1;
      if (last_load) begin
        loading   <= 1'b0;
        upcoming <= PARAMETERS;
      end
    end
    if (parameter_read) begin
      parameter_address <= parameter_address + 1'b1;
      if (placed && !last_place) upcoming <= PARAMETERS;
      else if (last_tile) upcoming <= DESCRIPTORS;
      else upcoming <= convolution ? WEIGHTS : PARAMETERS;
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
          done  <= 1'b0;
        end
        FETCH:
        if (descriptor_ready) begin
          fetched <= fetched + 1'b1;
          tile <= {EXTENT{1'b0}};
          if (fetched == FIELDS[5:0] - 1'b1) begin
            state <= TILE;
            upcoming <= fields[64*(F_KIND+1)+:2] == 2'd0 ? WEIGHTS : PARAMETERS;  // it is about to move down
          end
        end
        TILE: begin
          state <= convolution ? LOAD : TAKE;
          if (tile == 0) begin
            loading <= convolution;
            loading_half <= half;
            loaded <= {(WINDOW + 1) {1'b0}};
          end
          fresh_parameters <= 1'b1;
          ended <= 1'b0;
          image <= {EXTENT{1'b0}};
          row <= {EXTENT{1'b0}};
          column <= {EXTENT{1'b0}};
          place_y <= first_y;
          place_x <= first_x;
          at_tile <= tile_at;
          at_image <= tile_at;
          at_row <= tile_at;
          at_place <= tile_at;
          wide_tile <= tile_wide;
          wide_address <= tile_wide;
          narrow_tile <= tile_narrow;
          narrow_address <= tile_narrow;
        end
        LOAD: if (!loading || last_load) state <= TAKE;
        TAKE:
        if (taken) begin  // parameters are there a clock later
          state <= SETTLE;
          if (convolution && !last_tile && (placed ? last_place : fresh_parameters)) begin
            loading <= 1'b1;
            loading_half <= ~half;
            loaded <= {(WINDOW + 1) {1'b0}};
          end
        end
        SETTLE: begin
          state <= RUN;
          place <= {PLACE{1'b0}};
          kernel_row <= {EXTENT{1'b0}};
          kernel_column <= {EXTENT{1'b0}};
          block <= {EXTENT{1'b0}};
          word <= {WINDOW{1'b0}};
          fresh <= 1'b1;
          tap_y <= {EXTENT{1'b0}};
          tap_x <= {EXTENT{1'b0}};
          tap_at <= {ADDRESS{1'b0}};
          tap_row <= {ADDRESS{1'b0}};
          tap_column <= {ADDRESS{1'b0}};
        end
        RUN: begin  // a tap of a place a clock
          count <= 8'd0;
          place <= last_of_group ? {PLACE{1'b0}} : place + 1'b1;
          if (fresh) begin
            kept_at[place] <= at_place;
            kept_y[place] <= place_y;
            kept_x[place] <= place_x;
            group_end <= place;
            ended <= last_place;
            if (!last_column) begin
              column <= column + 1'b1;
              place_x <= place_x + stride_x;
              at_place <= at_place + read_column;
            end else begin
              column  <= {EXTENT{1'b0}};
              place_x <= first_x;
              if (!last_row) begin
                row <= row + 1'b1;
                place_y <= place_y + stride_y;
                at_row <= at_row + read_row;
                at_place <= at_row + read_row;
              end else begin
                row <= {EXTENT{1'b0}};
                place_y <= first_y;
                image <= image + 1'b1;
                at_image <= at_image + read_image;
                at_row <= at_image + read_image;
                at_place <= at_image + read_image;
              end
            end
          end
          if (last_of_group) begin
            fresh <= last_tap;
            word  <= last_tap ? {WINDOW{1'b0}} : word + 1'b1;
            block <= last_block ? {EXTENT{1'b0}} : block + 1'b1;
            if (!last_block) tap_at <= tap_at + read_block;
            else if (!last_kernel_column) begin
              kernel_column <= kernel_column + 1'b1;
              tap_x <= tap_x + dilation_x;
              tap_at <= tap_column + read_kernel_column;
              tap_column <= tap_column + read_kernel_column;
            end else begin
              kernel_column <= {EXTENT{1'b0}};
              kernel_row <= last_tap ? {EXTENT{1'b0}} : kernel_row + 1'b1;
              tap_x <= {EXTENT{1'b0}};
              tap_y <= last_tap ? {EXTENT{1'b0}} : tap_y + dilation_y;
              tap_at <= last_tap ? {ADDRESS{1'b0}} : tap_row + read_kernel_row;
              tap_row <= last_tap ? {ADDRESS{1'b0}} : tap_row + read_kernel_row;
              tap_column <= last_tap ? {ADDRESS{1'b0}} : tap_row + read_kernel_row;
            end
            if (last_tap) begin
              if (gap != 0) state <= WAIT;
              else if (fresh ? last_place : ended) state <= DRAIN;
            end
          end
        end
        WAIT: begin
          count <= count + 1'b1;
          fresh_parameters <= placed;
          if (count == gap) begin
            count <= 8'd0;
            state <= ended ? DRAIN : TAKE;
          end
        end
        DRAIN: begin
          count <= count + 1'b1;
          if (count == DEPTH) state <= NEXT;
        end
        NEXT: begin
          tile <= tile + 1'b1;
          half <= ~half;
          if (!last_tile) state <= TILE;
          else if (fields[64*F_FINAL]) begin
            state <= IDLE;
            done  <= 1'b1;
          end else state <= FETCH;
        end
        default: state <= IDLE;
      endcase

    if (reset || state == NEXT) fetched <= 6'd0;
    if (reset || (state == NEXT && last_tile && fields[64*F_FINAL])) begin  // from the beginning again
      upcoming <= DESCRIPTORS;
      descriptor <= {DESCRIPTOR{1'b0}};
      weight <= {STORE{1'b0}};
      parameter_address <= {PARAMETER{1'b0}};
    end
  end
endmodule
