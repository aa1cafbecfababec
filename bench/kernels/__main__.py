"""`python -m bench.kernels [--quick] [--cpu]`: see run.py."""

import sys

from bench.kernels.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
