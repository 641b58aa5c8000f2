"""The operations. An op set is a module or object with the same functions over its own kind of array:

reference  numpy, the definition: slow, readable, everywhere
native     C++ kernels over numpy arrays: the fast one, exact to the bit
autograd   torch: differentiable, for training and GPUs

`reference` says what each function computes; the others must agree with it.
"""

from ingot.ops.segments import PAGE, Segments

__all__ = ["PAGE", "Segments"]
