"""Is a GPU right, and how fast is it: kernels, training, a round, a whole network, in six minutes on any card."""
