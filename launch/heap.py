"""What a training process frees stays with it, instead of going back to the system.

A step allocates and frees some GB of activations. By default glibc returns them, and they must be asked for again page
by page: 1 s of a step's 14 s on two cores in a virtual machine, and 2 to 4 s more in each of the steps beside which a
checkpoint is written, whose copy takes the place that they had.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """From now on this process's malloc never trims its heap (-1), and takes no memory beside it (0), which free would
    return. False where the C library is another one than glibc, and nothing is changed.

    The process then stays as large as it ever was. For a process that trains on a CPU; one that loads a model there for
    a GPU should give it back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_TRIM_THRESHOLD, -1) == 1 and mallopt(M_MMAP_MAX, 0) == 1
