"""Where packages come from. One module per scheme; each turns text into a value that can't be mistaken."""
