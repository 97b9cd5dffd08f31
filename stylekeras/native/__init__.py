"""Code of our own for what runtimes of graphs have no fast way for on a processor; it takes and gives NumPy arrays.

- `threads`: shares work out among the cores;
- `writer`: writes machine code and compiles it, with llvmlite, for the processor that it runs on;
- `winograd`, `convolution_code`, `convolution`: 3x3 convolutions by Winograd's algorithm.
"""
