"""What is measured: the float network's ranges and answers, and how far a network's answers are from them."""
