# Packages rx_axi as an IP core for Vivado: vivado -mode batch -source package.tcl
# Vivado finds the interfaces s_axi and m_axi by their names. This script has not been run by the tool that wrote it.
set here [file dirname [file normalize [info script]]]
create_project -in_memory -part xczu7ev-ffvc1156-2-e
add_files -norecurse [glob $here/rx_*.v]
add_files -norecurse [list $here/parameters.vh $here/rx_fields.vh]
set_property file_type {Verilog Header} [get_files {parameters.vh rx_fields.vh}]
set_property include_dirs $here [current_fileset]
set_property top rx_axi [current_fileset]
update_compile_order -fileset sources_1

ipx::package_project -root_dir $here/ip -vendor radixpoint -library user -taxonomy /UserIP -import_files -force
set core [ipx::current_core]
set_property name rx_axi $core
set_property display_name {radixpoint accelerator} $core
ipx::associate_bus_interfaces -busif s_axi -clock aclk $core
ipx::associate_bus_interfaces -busif m_axi -clock aclk $core
ipx::infer_bus_interface interrupt xilinx.com:signal:interrupt_rtl:1.0 $core
ipx::create_xgui_files $core
ipx::update_checksums $core
ipx::save_core $core
