"""Code of our own for what runtimes of graphs have no fast way for on a processor; it takes and gives NumPy arrays.

- `threads`: shares work out among the cores;
- `memory`: what code is given by its address;
- `writer`: writes machine code and compiles it, with llvmlite, for the processor that it runs on;
- `winograd`, `convolution_code`, `convolution`: 3x3 convolutions by Winograd's algorithm in float32;
- `tiles`: what processors that multiply matrices of bfloat16 are told; on it `direct_code`, `direct`: 3x3 convolutions,
  `gram_code`, `gram`: Gram matrices; `pool_code`, `pool`: pools between them.
"""
