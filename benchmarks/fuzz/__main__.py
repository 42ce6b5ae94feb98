"""`python -m benchmarks.fuzz`, as the package says."""

import sys

from benchmarks.fuzz.running import main

sys.exit(main())
