# Timing of rx_axi on its own. Every port belongs to one clock; on a chip, the periods and delays are yours.
set period 10.0
create_clock -name aclk -period $period [get_ports aclk]
set_input_delay -clock aclk [expr 0.3 * $period] [remove_from_collection [all_inputs] [get_ports aclk]]
set_output_delay -clock aclk [expr 0.3 * $period] [all_outputs]
# The reset is held for many clocks.
set_false_path -from [get_ports aresetn]
