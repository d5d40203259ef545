// A memory with one write and one read port; what is read appears after the next clock edge, and stays.
module rx_memory #(
    parameter BITS = 32,
    parameter WORDS = 1024,
    parameter ADDRESS = 10,
    parameter CONTENT = ""  // file for $readmemh
) (
    input clock,
    input write,
    input [ADDRESS-1:0] write_address,
    input [BITS-1:0] write_data,
    input read,
    input [ADDRESS-1:0] read_address,
    output reg [BITS-1:0] read_data
);
  reg [BITS-1:0] words[0:WORDS-1];

  generate
    if (CONTENT != "") begin : gen_content
      initial $readmemh(CONTENT, words);
    end
  endgenerate

  always @(posedge clock) begin
    if (write) words[write_address] <= write_data;
    if (read) read_data <= words[read_address];
  end
endmodule
