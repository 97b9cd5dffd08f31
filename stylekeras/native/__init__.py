"""Code of our own for what runtimes of graphs have no fast way for on a processor; it takes and gives NumPy arrays.

- `memory`: what code is given by its address;
- `blas`: NumPy's linear algebra in one thread;
- `writer`: writes machine code and compiles it, with llvmlite, for the processor that it runs on;
- `winograd`, `convolution_code`, `convolution`: 3x3 convolutions by Winograd's algorithm in float32;
- `colours_code`, `colours`: 3x3 convolutions from and to a picture's planes in float32;
- `pool_code`, `pool`: pools and their gradients, in float32 or bfloat16;
- `tridiagonal_code`, `roots`: roots of symmetric matrices, for the Wasserstein loss;
- `picture_code`, `pictures`: sums of whole pictures, for L-BFGS;
- `tiles`: what processors that multiply matrices of bfloat16 are told; on it `direct_code`, `direct`: 3x3 convolutions,
  `gram_code`, `gram`: Gram matrices.
"""
