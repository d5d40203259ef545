"""The two intermediate representations, the table of operators behind them, and the file of a network."""
